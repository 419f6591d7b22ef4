/** A source group as the API shows it. */
import type { SourceGroup } from '../capture/source-group.js';
import type { SourceGroupConfig } from '../config/schema-groups.js';
import { errorTable, type ErrorCode } from '../core/errors.js';
import type { LinkState, LinkStatus } from '../link/link-status.js';
import type { GroupStatus } from '../service/group-schemas.js';
import type { ExportHost } from './exports.js';
import type { SeenVms } from './source-vms.js';
import { arrivalView, vmAlerts, vmView } from './vm-status.js';

/** Worst first: a group is as well as its worst link. */
const stateOfLink: readonly (readonly [LinkState, GroupStatus['state']])[] = [
  ['forked', 'forked'],
  ['fenced', 'fenced'],
  ['stopped', 'disconnected'],
  ['refused', 'disconnected'],
  ['connecting', 'disconnected'],
  ['paused', 'paused'],
  ['sync-unavailable', 'resyncing'],
  ['resyncing', 'resyncing'],
];

function stateOf(links: readonly LinkStatus[], disks: readonly { attached: boolean }[]): GroupStatus['state'] {
  for (const [link, state] of stateOfLink) if (links.some((candidate) => candidate.state === link)) return state;
  if (links.every((link) => link.durableCheckpointId === undefined)) return 'initial';
  return disks.every(({ attached }) => attached) ? 'protecting' : 'resyncing';
}

function linkState(link: LinkStatus): GroupStatus['links'][number]['state'] {
  if (link.state === 'stopped') return 'stopped';
  if (link.connected) return 'connected';
  return link.refusal === undefined ? 'connecting' : 'refused';
}

function apiError(refusal: LinkStatus['refusal']): GroupStatus['links'][number]['lastError'] {
  if (refusal === undefined) return null;
  const known = (refusal.code in errorTable ? refusal.code : 'internal') as ErrorCode;
  return {
    code: refusal.code,
    message: refusal.message,
    hint: errorTable[known].hint,
    path: null,
    retry: errorTable[known].retry,
  };
}

function alertsOf(links: readonly LinkStatus[], nowMs: number): GroupStatus['alerts'] {
  return links.flatMap((link) => {
    const alerts: GroupStatus['alerts'] = [];
    if (link.refusal !== undefined) {
      const error = apiError(link.refusal);
      alerts.push({
        code: link.refusal.code,
        message: `${link.target}: ${link.refusal.message}`,
        hint: error?.hint ?? '',
        sinceMs: nowMs,
      });
    }
    for (const { disk, reason } of link.disksRefused)
      alerts.push({
        code: 'disk-refused',
        message: `${link.target} does not take disk ${disk}: ${reason}.`,
        hint: errorTable['disk-refused'].hint,
        sinceMs: nowMs,
      });
    if (link.stage === 'bitmap') {
      const message = `${link.target}: no new checkpoint until the sync has ended (${link.lastRetreatReason ?? 'the buffer was full'}).`;
      alerts.push({
        code: 'retreat-bitmap',
        message,
        hint: 'Give more buffer or spool, or a faster link.',
        sinceMs: nowMs,
      });
    }
    return alerts;
  });
}

/** `alerts`: those that are neither the links' nor the VMs'. */
export function sourceStatus(
  group: SourceGroup,
  config: SourceGroupConfig,
  exports: ExportHost,
  vms: SeenVms,
  alerts: GroupStatus['alerts'],
): GroupStatus {
  const { links, sourceTimeMs, disks } = group.status;
  const durable = links.flatMap((link) => (link.durableCheckpointMs === undefined ? [] : [link.durableCheckpointMs]));
  const intervalSeconds = config.checkpointIntervalSeconds;
  const first = links[0];
  const rpoSeconds =
    durable.length < links.length || durable.length === 0
      ? null
      : Math.max(0, sourceTimeMs - Math.min(...durable)) / 1000;
  const folding = links.some((link) => link.stage === 'fold');
  return {
    name: group.name,
    role: 'source',
    state: stateOf(links, disks),
    actions: [],
    alerts: [...alerts, ...vms.here.flatMap(vmAlerts), ...alertsOf(links, sourceTimeMs)],
    owner: null,
    policyRevision: 0,
    epoch:
      first === undefined || first.epoch === 0
        ? null
        : {
            epoch: first.epoch,
            branch: first.branch,
            parentBranch: null,
            checkpoint: null,
            holder: 'source',
            reason: 'as the target said',
            sinceMs: 0,
          },
    rpoSeconds,
    checkpointIntervalSeconds: intervalSeconds,
    effectiveIntervalSeconds: folding && rpoSeconds !== null ? Math.max(intervalSeconds, rpoSeconds) : intervalSeconds,
    newestCheckpoint: null,
    disks: disks.map((disk, index) => {
      const declared = config.disks.find(({ name }) => name === disk.name);
      const exportName = declared?.exportName ?? `${config.name}/${disk.name}`;
      const syncing = links.some((link) => link.syncs.some((sync) => sync.disk === disk.name));
      return {
        name: disk.name,
        index,
        sizeBytes: disk.sizeBytes,
        stream: group.agent,
        state: disk.removed
          ? ('removed' as const)
          : syncing
            ? ('syncing' as const)
            : disk.attached
              ? ('attached' as const)
              : ('detached' as const),
        exportName,
        exportUri: exports.uri(exportName),
        replica: null,
      };
    }),
    links: links.map((link) => ({
      peer: link.target,
      stream: group.agent,
      address: link.address,
      state: linkState(link),
      stage: link.stage,
      connectedSinceMs: link.connectedSinceMs ?? null,
      incarnation: link.incarnation,
      sequenceGiven: link.sequenceGiven,
      sequenceDurable: link.sequenceDurable,
      bufferBytes: Math.round(link.bufferBytes),
      bufferBytesMax: Math.round(link.bufferBytesMax),
      spoolBytes: link.spoolBytes,
      spoolBytesMax: link.spoolBytesMax,
      dirtyBytes: link.dirtyBytes,
      bytesPerSecond: link.sentBytesPerSecond,
      throttleBytesPerSecond: link.throttleBytesPerSecond ?? null,
      clockOffsetMs: link.clockOffsetMs ?? null,
      lastError: apiError(link.refusal),
    })),
    ...(config.vms.length === 0 ? {} : { vms: [...vms.here.map(vmView), ...vms.elsewhere.map(arrivalView)] }),
    syncs: links.flatMap((link) =>
      link.syncs.map((sync) => ({
        id: `${link.target}/${sync.disk}`,
        kind: sync.kind,
        disks: [sync.disk],
        startedMs: link.connectedSinceMs ?? 0,
        doneBytes: sync.doneBytes,
        totalBytes: sync.totalBytes,
        bytesPerSecond: sync.bytesPerSecond,
        secondsLeft: sync.secondsLeft ?? null,
      })),
    ),
    journal: null,
    views: [],
    lastOperation: null,
  };
}
