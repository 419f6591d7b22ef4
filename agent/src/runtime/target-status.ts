/** A target group as the API shows it. */
import { errorTable, type ErrorCode } from '../core/errors.js';
import type { Checkpoint as ApiCheckpoint } from '../service/checkpoint-schemas.js';
import type { GroupStatus } from '../service/group-schemas.js';
import type { OperationKind } from '../service/operation-schemas.js';
import type { ViewStatus } from '../service/view-schemas.js';
import { disksAt, disksKept } from '../target/disk-set.js';
import type { TargetGroup } from '../target/group.js';
import type { Checkpoint } from '../target/manifest-records.js';
import type { GroupDisk } from '../target/manifest.js';
import { legalActions } from '../target/state-machine.js';
import type { OpenView, ViewRecord } from '../target/views.js';
import { viewExportName, type ExportHost } from './exports.js';

const hourMs = 3_600_000;

export function targetCheckpoint(group: TargetGroup, checkpoint: Checkpoint): ApiCheckpoint {
  const { state } = group.context.manifest;
  const { pins, views } = state;
  const diskCount = disksAt(state, checkpoint.vector).length + (checkpoint.disksUnknown ?? 0);
  const held = [
    ...[...pins.values()].map(({ id, checkpoint: of, reason }) => ({ id, of, reason })),
    ...[...views.values()].map(({ id, checkpoint: of, purpose }) => ({ id, of, reason: `${purpose} view` })),
  ];
  return {
    id: checkpoint.id,
    kind: checkpoint.kind,
    label: checkpoint.label ?? null,
    sourceTimeMs: checkpoint.sourceTimeMs,
    epoch: checkpoint.epoch,
    diskCount,
    disksPresent: diskCount - checkpoint.disksMissing.length - (checkpoint.disksUnknown ?? 0),
    complete: checkpoint.complete,
    pins: held.filter(({ of }) => of === checkpoint.id).map(({ id, reason }) => ({ id, reason })),
    attributes: checkpoint.attributes ?? {},
  };
}

export function viewStatus(group: TargetGroup, open: OpenView, exports: ExportHost): ViewStatus {
  return {
    id: open.record.id,
    group: group.name,
    checkpoint: open.checkpoint.id,
    sourceTimeMs: open.checkpoint.sourceTimeMs,
    purpose: open.record.purpose,
    label: open.record.label ?? null,
    state: 'open',
    openedMs: open.openedMs,
    scratchBytes: open.view.scratchUsedBytes,
    scratchLimitBytes: open.view.scratchLimitBytes,
    clientCount: open.view.clientCount,
    disks: [...open.disks].map(([name, { sizeBytes }]) => {
      const exportName = viewExportName(group.name, open.record.id, name);
      return { name, sizeBytes, exportName, uri: exports.uri(exportName), tlsUri: exports.tlsUri(exportName) };
    }),
  };
}

/** The scratch of a rollback: kept, not served. */
function keptStatus(group: TargetGroup, record: ViewRecord): ViewStatus {
  const checkpoint = group.checkpoints().find(({ id }) => id === record.checkpoint);
  return {
    id: record.id,
    group: group.name,
    checkpoint: record.checkpoint,
    sourceTimeMs: checkpoint?.sourceTimeMs ?? 0,
    purpose: 'named',
    label: record.label ?? null,
    state: 'kept',
    openedMs: 0,
    scratchBytes: 0,
    scratchLimitBytes: record.scratchLimitBytes,
    clientCount: 0,
    disks: [],
  };
}

export function viewsOf(group: TargetGroup, exports: ExportHost): ViewStatus[] {
  const kept = [...group.context.manifest.state.views.values()].filter(({ purpose }) => purpose === 'named');
  return [
    ...group.views.list().map((open) => viewStatus(group, open, exports)),
    ...kept.map((record) => keptStatus(group, record)),
  ];
}

function stateOf(group: TargetGroup): GroupStatus['state'] {
  const { state } = group.context.manifest.state;
  if (state !== 'protecting') return state;
  if (group.upkeep.mustPause) return 'paused';
  if (!group.checkpoints().some(({ complete }) => complete)) return 'initial';
  if (group.connectedStreams.length < group.context.manifest.state.streams.size) return 'disconnected';
  return group.checkpoints().at(-1)?.complete === false ? 'resyncing' : 'protecting';
}

/** The time to decide is over, by the group's settings. */
function uncommitted({ name, context }: TargetGroup): GroupStatus['alerts'] {
  const { state, epochs } = context.manifest.state;
  const { recovery } = context.settings;
  const sinceMs = epochs.at(-1)?.wallMs;
  if (state !== 'failed-over' || recovery === null || sinceMs === undefined) return [];
  const dueMs = sinceMs + recovery.uncommittedHours * hourMs;
  if (context.clock.wallMs() < dueMs) return [];
  const message = `Group ${name} has been failed over for ${recovery.uncommittedHours} h, neither committed nor rolled back.`;
  const hint = `Decide: \`tidemark commit ${name}\` or \`tidemark rollback ${name}\`.`;
  return [{ code: 'failover-uncommitted', message, hint, sinceMs: dueMs }];
}

function alertsOf(group: TargetGroup): GroupStatus['alerts'] {
  const alert = (code: ErrorCode, message: string): GroupStatus['alerts'][number] => ({
    code,
    message,
    hint: errorTable[code].hint,
    sinceMs: group.context.clock.wallMs(),
  });
  const alerts = [];
  if (group.seeding.failure !== undefined) alerts.push(alert('seeding', group.seeding.failure));
  for (const { name, missing } of group.context.manifest.state.disks.values())
    if (missing === true)
      alerts.push(
        alert('disk-missing', `The source does not send disk ${name}; no checkpoint is complete without it.`),
      );
  if (group.upkeep.mustPause) alerts.push(alert('journal-full', 'The journal is at its limit; ingest is paused.'));
  alerts.push(...uncommitted(group));
  const { damagedCount } = group.upkeep.scrub;
  if (damagedCount > 0)
    alerts.push(alert('replica-mismatch', `${damagedCount} chunks of the replica are damaged and are not served.`));
  for (const { view, record } of group.views.list()) {
    if (view.failed) alerts.push(alert('storage-io', `Scratch of view ${record.id} could not be made durable.`));
    if (view.scratchUsedBytes > 0.9 * view.scratchLimitBytes) {
      alerts.push(alert('scratch-full', `Scratch of view ${record.id} is over 90 % of its limit.`));
    }
  }
  return alerts;
}

function seedsOf({ seeding, name }: TargetGroup): GroupStatus['syncs'] {
  const { progress } = seeding;
  if (progress === undefined) return [];
  const { disk, doneBytes, totalBytes, startedMs, bytesPerSecond } = progress;
  const secondsLeft = bytesPerSecond > 0 ? (totalBytes - doneBytes) / bytesPerSecond : null;
  return [
    {
      id: `${name}/${disk}`,
      kind: 'seed',
      disks: [disk],
      startedMs,
      doneBytes,
      totalBytes,
      bytesPerSecond,
      secondsLeft,
    },
  ];
}

function diskState(group: TargetGroup, { index, stream }: GroupDisk): GroupStatus['disks'][number]['state'] {
  const { disks, diskChanges } = group.context.manifest.state;
  const known = disks.get(index);
  if (known === undefined)
    return diskChanges.some((record) => record.index === index && record.removed) ? 'removed' : 'syncing';
  return known.missing !== true && group.connectedStreams.includes(stream) ? 'attached' : 'detached';
}

export async function targetStatus(group: TargetGroup, exports: ExportHost): Promise<GroupStatus> {
  const { manifest, journal, settings, storage, directory, key } = group.context;
  const { state } = manifest;
  const epoch = state.epochs.at(-1);
  const newest = group.checkpoints().findLast(({ complete }) => complete);
  const oldest = group.checkpoints().find(({ complete }) => complete);
  const rpoMs = group.rpoMs();
  const intervalSeconds = settings.checkpointIntervalMs / 1000;
  const drills =
    settings.recovery === null
      ? []
      : (['drill', 'drill-stop', ...(state.state === 'failed-over' ? (['boot'] as const) : [])] as const);
  const actions: OperationKind[] = [
    ...legalActions(state.state),
    ...drills,
    'pin',
    'unpin',
    'forget-disk',
    'verify',
    'export',
    'rebuild',
  ];
  return {
    name: group.name,
    role: 'target',
    state: stateOf(group),
    actions,
    alerts: alertsOf(group),
    owner: settings.owner,
    policyRevision: settings.policyRevision,
    epoch:
      epoch === undefined
        ? null
        : {
            epoch: epoch.epoch,
            branch: epoch.branch,
            parentBranch: epoch.parentBranch ?? null,
            checkpoint: epoch.checkpoint ?? null,
            holder: epoch.holder,
            reason: epoch.reason,
            sinceMs: epoch.wallMs,
          },
    rpoSeconds: rpoMs === undefined ? null : rpoMs / 1000,
    checkpointIntervalSeconds: intervalSeconds,
    effectiveIntervalSeconds: intervalSeconds,
    newestCheckpoint: newest === undefined ? null : targetCheckpoint(group, newest),
    disks: disksKept(state).map((disk) => ({
      name: disk.name,
      index: disk.index,
      sizeBytes: disk.sizeBytes,
      stream: state.streams.get(disk.stream) ?? '',
      state: diskState(group, disk),
      exportName: null,
      exportUri: null,
      replica: {
        checkpoint: state.promoted?.checkpoint.id ?? null,
        sourceTimeMs: state.promoted?.checkpoint.sourceTimeMs ?? null,
        allocatedBytes: 0,
      },
    })),
    links: group.sessionList().map((session) => ({
      peer: session.peerName,
      stream: session.peerName,
      address: session.address,
      state: 'connected' as const,
      stage: null,
      connectedSinceMs: session.sinceMs,
      incarnation: session.incarnation,
      sequenceGiven: journal.received[session.stream]?.sequence ?? 0,
      sequenceDurable: journal.durable[session.stream]?.sequence ?? 0,
      bufferBytes: 0,
      bufferBytesMax: 0,
      spoolBytes: 0,
      spoolBytesMax: 0,
      dirtyBytes: 0,
      bytesPerSecond: session.bytesPerSecond(),
      throttleBytesPerSecond: null,
      clockOffsetMs: session.clockBehindMs === undefined ? null : -session.clockBehindMs,
      lastError: null,
    })),
    syncs: seedsOf(group),
    journal: {
      bytes: journal.usage.bytes,
      hardLimitBytes: settings.hardLimitBytes,
      pendingBytes: journal.pendingBytes,
      segmentCount: journal.usage.segmentCount,
      recordCount: journal.usage.recordCount,
      checkpointCount: group.checkpoints().length,
      oldestCheckpointMs: oldest?.sourceTimeMs ?? null,
      encrypted: key !== undefined,
      freeBytes: await storage.freeBytes(directory),
    },
    views: viewsOf(group, exports),
    lastOperation: [...state.operations.values()].at(-1)?.id ?? null,
  };
}
