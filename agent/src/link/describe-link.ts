/** The status of a link, gathered from its parts. */
import type { Clock } from '../core/clock.js';
import type { BlockEncoder } from './encoder.js';
import type { LinkBounds } from './environment.js';
import type { EpochState } from './epoch-file.js';
import type { Folder } from './folder.js';
import type { LinkCapture } from './link-capture.js';
import type { LinkState, LinkStatus, SyncProgress } from './link-status.js';
import type { QueuedMark } from './queue-item.js';
import type { Rate } from './rate.js';
import type { RecordQueue } from './record-queue.js';
import type { Session, SessionEnd } from './session.js';
import type { Spool } from './spool.js';
import type { Stager } from './stager.js';
import type { SyncDisk } from './sync-disk.js';
import type { Throttle } from './throttle.js';

export interface LinkParts {
  readonly target: string;
  readonly address: string;
  readonly clock: Clock;
  readonly throttle: Throttle | undefined;
  readonly bounds: LinkBounds;
  readonly queue: RecordQueue;
  readonly spool: Spool;
  readonly taking: LinkCapture;
  readonly folder: Folder;
  readonly stager: Stager;
  readonly encoder: BlockEncoder;
  readonly rate: Rate;
  readonly disks: readonly SyncDisk[];
  readonly session: Session | undefined;
  readonly refusal: SessionEnd | undefined;
  readonly paused: boolean;
  readonly stopped: boolean;
  readonly connected: boolean;
  readonly connectedSinceMs: number | undefined;
  readonly known: EpochState;
  readonly incarnation: number;
  readonly previous: LinkStatus['previous'];
  readonly durableSequence: number;
  readonly durableMark: QueuedMark | undefined;
  readonly sentBytes: number;
  readonly connectCount: number;
  readonly lostIncarnations: number;
}

/** Everything that a person may ask of a link, at this moment. */
export function describeLink(link: LinkParts): LinkStatus {
  const { queue, spool, bounds, taking, folder, stager, encoder } = link;
  return {
    target: link.target,
    address: link.address,
    state: stateOf(link),
    refusal: link.refusal,
    connected: link.connected,
    connectedSinceMs: link.connectedSinceMs,
    epoch: link.known.epoch,
    branch: link.known.branch,
    incarnation: link.incarnation,
    previous: link.previous,
    sequenceGiven: queue.sequence,
    sequenceDurable: link.durableSequence,
    stage: taking.mode === 'bitmap' ? 'bitmap' : folder.active ? 'fold' : spool.liveBytes > 0 ? 'spool' : 'buffer',
    bufferBytes: queue.memoryBytes,
    bufferBytesMax: bounds.bufferBytes,
    spoolBytes: spool.usedBytes,
    spoolBytesMax: bounds.spoolBytes,
    inFlightBytes: queue.inFlightBytes,
    inFlightBytesMax: bounds.inFlightBytes,
    unsentBytes: queue.unsentBytes,
    unsentRecordCount: queue.unsentRecordCount,
    dirtyBytes: taking.dirtyBytes,
    sentBytes: link.sentBytes,
    sentBytesPerSecond: link.rate.bytesPerSecond,
    throttleBytesPerSecond: link.throttle?.bytesPerSecond,
    compressionRatio: encoder.rawBytes === 0 ? 1 : encoder.storedBytes / encoder.rawBytes,
    clockOffsetMs: link.session?.clockOffsetMs,
    durableCheckpointMs: link.durableMark?.sourceTimeMs,
    durableCheckpointId: link.durableMark?.id,
    syncs: syncsOf(link),
    disksRefused: link.disks.flatMap(({ name, refused }) =>
      refused === undefined ? [] : [{ disk: name, reason: refused }],
    ),
    counters: {
      retreats: taking.retreatCount,
      spilledBytes: stager.spilledBytes,
      spoolErrors: stager.spoolErrorCount,
      folds: folder.foldCount,
      foldSavedBytes: folder.savedBytes,
      marksWidened: folder.widenedCount,
      incarnationsLost: link.lostIncarnations,
      connects: link.connectCount,
      syncReadErrors: taking.syncReadErrors,
    },
    lastRetreatReason: taking.lastRetreatReason,
  };
}

function stateOf(link: LinkParts): LinkState {
  if (link.stopped) return 'stopped';
  if (link.refusal?.code === 'stale-epoch') return 'fenced';
  if (link.refusal?.code === 'fork') return 'forked';
  if (link.refusal !== undefined) return 'refused';
  if (!link.connected) return 'connecting';
  if (link.paused) return 'paused';
  if (link.taking.mode === 'bitmap') return 'resyncing';
  const open = link.disks.filter((disk) => disk.open !== undefined);
  if (open.length > 0) return open.every((disk) => disk.reader === undefined) ? 'sync-unavailable' : 'resyncing';
  if (link.folder.active) return 'folding';
  return link.spool.liveBytes > 0 ? 'spooling' : 'streaming';
}

function syncsOf(link: LinkParts): SyncProgress[] {
  const elapsedMs = link.clock.monotonicMs() - link.taking.runner.startedMs;
  return link.disks.flatMap((disk) => {
    if (disk.open === undefined) return [];
    const totalBytes = Math.max(disk.totalBytes, disk.leftBytes);
    const doneBytes = totalBytes - disk.leftBytes;
    const bytesPerSecond = elapsedMs > 0 ? (doneBytes * 1000) / elapsedMs : 0;
    const secondsLeft = bytesPerSecond > 0 ? disk.leftBytes / bytesPerSecond : undefined;
    return [{ disk: disk.name, kind: disk.open.kind, doneBytes, totalBytes, bytesPerSecond, secondsLeft }];
  });
}
