/** The group's manifest: its record log, and the state that the records add up to. */
import type { RecordLog } from '../core/record-log.js';
import { TidemarkError } from '../core/errors.js';
import { applyManifestRecord, createManifestState, snapshotManifest } from '../journal/manifest-state.js';
import { isWithin, type Vector } from '../journal/position.js';
import { manifestRecordSchema, type Checkpoint, type ManifestRecord, type ManifestLog } from './manifest-records.js';
import type { GroupState } from './state-machine.js';

type Of<T extends ManifestRecord['type']> = Extract<ManifestRecord, { type: T }>;

export interface GroupDisk {
  readonly index: number;
  readonly name: string;
  readonly sizeBytes: number;
  /** Index of the stream that captures it. */
  readonly stream: number;
  /** The source does not send it. */
  readonly missing?: boolean | undefined;
  /** The source does not have it: another may send it. */
  readonly left?: boolean | undefined;
}

export type DiskRecord = Of<'disk'>;

/** What the manifest says at this moment. Only {@link applyRecord} changes it. */
export interface ManifestState {
  group: Of<'group'> | undefined;
  /** Those of the group now, by index. */
  readonly disks: Map<number, GroupDisk>;
  /** All that is known of disks, of each index in the order of its stream. */
  diskChanges: DiskRecord[];
  readonly streams: Map<number, string>;
  /** Newest incarnation of each stream. */
  readonly incarnations: Map<number, Of<'incarnation'>>;
  /** Oldest first; the last one is in force. */
  readonly epochs: Of<'epoch'>[];
  promoting: { through: Vector; checkpoint: Checkpoint } | undefined;
  promoted: { through: Vector; checkpoint: Checkpoint } | undefined;
  readonly barriers: Map<string, Of<'barrier'>>;
  /** By checkpoint; a new map with every change. */
  verdicts: ReadonlyMap<string, Of<'verdict'>>;
  readonly pins: Map<string, Of<'pin'>>;
  readonly views: Map<string, Of<'view'>>;
  readonly operations: Map<string, Of<'operation'>>;
  state: GroupState;
  settings: Record<string, unknown>;
}

export function emptyState(): ManifestState {
  return {
    group: undefined,
    disks: new Map(),
    diskChanges: [],
    streams: new Map(),
    incarnations: new Map(),
    epochs: [],
    promoting: undefined,
    promoted: undefined,
    barriers: new Map(),
    verdicts: new Map(),
    pins: new Map(),
    views: new Map(),
    operations: new Map(),
    state: 'protecting',
    settings: {},
  };
}

/** Applies one record. Segment records are the journal's and are skipped. */
export function applyRecord(state: ManifestState, record: ManifestRecord): void {
  switch (record.type) {
    case 'group':
      state.group = record;
      break;
    case 'disk':
      applyDisk(state, record);
      break;
    case 'stream':
      state.streams.set(record.index, record.name);
      break;
    case 'incarnation':
      state.incarnations.set(record.stream, record);
      break;
    case 'epoch':
      state.epochs.push(record);
      break;
    case 'promoting':
      state.promoting = record;
      break;
    case 'promoted':
      state.promoted = record;
      state.promoting = undefined;
      break;
    case 'barrier':
      state.barriers.set(record.checkpoint, record);
      break;
    case 'verdict':
      if (!state.verdicts.has(record.checkpoint))
        state.verdicts = new Map([...state.verdicts, [record.checkpoint, record]]);
      break;
    case 'pin':
      if (record.removed) state.pins.delete(record.id);
      else state.pins.set(record.id, record);
      break;
    case 'view':
      if (record.removed) state.views.delete(record.id);
      else state.views.set(record.id, record);
      break;
    case 'operation':
      state.operations.set(record.id, record);
      break;
    case 'state':
      state.state = record.state;
      break;
    case 'settings':
      state.settings = record.settings;
      break;
    case 'segment-open':
    case 'segment-sealed':
    case 'segments-replaced':
      break;
  }
}

function applyDisk(state: ManifestState, record: DiskRecord): void {
  const { index, since, stream } = record;
  const sameMoment = (other: DiskRecord): boolean =>
    other.index === index &&
    (other.pending === true ||
      (other.stream === stream &&
        other.since?.incarnation === since?.incarnation &&
        other.since?.sequence === since?.sequence));
  state.diskChanges = [...state.diskChanges.filter((other) => !sameMoment(other)), record];
  if (record.removed || record.pending === true) state.disks.delete(index);
  else state.disks.set(index, record);
}

/** What no checkpoint needs any more goes: of each index what held before the promoted cut; of a removed one its end stays. */
function prunedDisks({ diskChanges, promoted }: ManifestState): DiskRecord[] {
  if (promoted === undefined) return diskChanges;
  const isPast = ({ since, stream, pending }: DiskRecord): boolean =>
    pending !== true && (since === undefined || isWithin(promoted.through, stream, since));
  return diskChanges.filter(
    (record, at) =>
      !isPast(record) ||
      !diskChanges.some((later, index) => index > at && later.index === record.index && isPast(later)),
  );
}

const lastSteps: ReadonlySet<string> = new Set(['done', 'failed', 'cancelled']);

/** Records that add up to the state. */
function snapshotOf(state: ManifestState): ManifestRecord[] {
  const { group, diskChanges, streams, incarnations, epochs, promoting, promoted, barriers, pins, views, operations } =
    state;
  return [
    { type: 'settings', settings: state.settings },
    ...[...streams].map(([index, name]) => ({ type: 'stream' as const, index, name })),
    ...diskChanges,
    ...incarnations.values(),
    ...epochs,
    ...(group === undefined ? [] : [group]),
    ...(promoted === undefined
      ? []
      : [{ type: 'promoted' as const, through: { ...promoted.through }, checkpoint: promoted.checkpoint }]),
    ...(promoting === undefined
      ? []
      : [{ type: 'promoting' as const, through: { ...promoting.through }, checkpoint: promoting.checkpoint }]),
    ...barriers.values(),
    ...state.verdicts.values(),
    ...pins.values(),
    ...views.values(),
    ...operations.values(),
    { type: 'state', state: state.state },
  ];
}

/**
 * Appends durable records and keeps the state. `state` changes only after a record is durable, so that nothing acts on
 * what a crash could take back.
 */
export class Manifest implements ManifestLog {
  readonly state = emptyState();
  /** Told once a record could not be made durable: nothing may be appended any more. */
  onFailed: ((error: Error) => void) | undefined;
  private readonly log: RecordLog;
  private readonly segments = createManifestState();
  private pendingCount = 0;

  private constructor(log: RecordLog) {
    this.log = log;
  }

  /** Parses what the log holds; the records are returned for the journal's own state. */
  static read(
    log: RecordLog,
    records: readonly unknown[],
    path: string,
  ): { manifest: Manifest; records: ManifestRecord[] } {
    const manifest = new Manifest(log);
    const parsed = records.map((record, index) => {
      const result = manifestRecordSchema.safeParse(record);
      if (!result.success) {
        throw new TidemarkError('journal-corrupt', `Manifest record ${index} is not valid: ${result.error.message}`, {
          path,
        });
      }
      manifest.apply(result.data);
      return result.data;
    });
    return { manifest, records: parsed };
  }

  async append(record: ManifestRecord): Promise<void> {
    this.pendingCount++;
    try {
      await this.log.append(record);
    } catch (error) {
      this.onFailed?.(error as Error);
      throw error;
    } finally {
      this.pendingCount--;
    }
    this.apply(record);
  }

  /**
   * Replaces the log by what its records add up to, when it has grown beyond `bytesMax` and nothing is being appended.
   * `isListed`: verdicts over checkpoints that are gone are left out, as are operations that ended before `endedBeforeMs`.
   */
  async compact(bytesMax: number, isListed: (checkpoint: string) => boolean, endedBeforeMs: number): Promise<void> {
    if (this.log.sizeBytes <= bytesMax || this.pendingCount > 0) return;
    const { state } = this;
    for (const id of [...state.barriers.keys()]) if (!isListed(id)) state.barriers.delete(id);
    state.verdicts = new Map([...state.verdicts].filter(([id]) => isListed(id)));
    for (const [id, record] of state.operations) {
      if (record.wallMs < endedBeforeMs && lastSteps.has(record.step)) state.operations.delete(id);
    }
    state.diskChanges = prunedDisks(state);
    await this.log.rewrite([...snapshotOf(state), ...snapshotManifest(this.segments)]);
  }

  private apply(record: ManifestRecord): void {
    applyRecord(this.state, record);
    applyManifestRecord(this.segments, record);
  }

  async close(): Promise<void> {
    await this.log.close();
  }
}
