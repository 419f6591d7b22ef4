/** What the manifest says of the journal, reduced from its records in order. */
import type { ManifestRecord, SegmentEntry } from '../target/manifest-records.js';
import type { Vector } from './position.js';

export interface ListedSegment {
  readonly id: number;
  /** Undefined while the segment is open. */
  readonly entry: SegmentEntry | undefined;
}

export interface JournalManifestState {
  /** Journal order. */
  segments: ListedSegment[];
  /** The replica holds everything up to here. */
  promoted: Vector;
  /** Greatest id that was ever named. */
  lastId: number;
}

export function createManifestState(): JournalManifestState {
  return { segments: [], promoted: {}, lastId: 0 };
}

/** Applies one record; records that are not about the journal change nothing. */
export function applyManifestRecord(state: JournalManifestState, record: ManifestRecord): void {
  switch (record.type) {
    case 'segment-open':
      state.segments.push({ id: record.id, entry: undefined });
      state.lastId = Math.max(state.lastId, record.id);
      break;
    case 'segment-sealed': {
      const { segment } = record;
      const at = state.segments.findIndex((listed) => listed.id === segment.id);
      state.segments.splice(at < 0 ? state.segments.length : at, at < 0 ? 0 : 1, { id: segment.id, entry: segment });
      state.lastId = Math.max(state.lastId, segment.id);
      break;
    }
    case 'segments-replaced': {
      const removed = new Set(record.removed);
      const found = state.segments.findIndex((listed) => removed.has(listed.id));
      const at = found < 0 ? state.segments.length : found;
      const added = record.added.map((entry) => ({ id: entry.id, entry }));
      const rest = state.segments.slice(at).filter((listed) => !removed.has(listed.id));
      state.segments = [...state.segments.slice(0, at), ...added, ...rest];
      for (const entry of record.added) state.lastId = Math.max(state.lastId, entry.id);
      break;
    }
    case 'promoted':
      state.promoted = record.through;
      break;
    default:
      break;
  }
}

export function reduceManifest(records: readonly ManifestRecord[]): JournalManifestState {
  const state = createManifestState();
  for (const record of records) applyManifestRecord(state, record);
  return state;
}

/** The records of a manifest snapshot that say the same of the segments (the caller adds its `promoted`). */
export function snapshotManifest(state: JournalManifestState): ManifestRecord[] {
  return state.segments.map(({ id, entry }) =>
    entry === undefined ? { type: 'segment-open', id } : { type: 'segment-sealed', segment: entry },
  );
}
