/** What a block's records say. Values are part of the format and never change meaning. */
export const RecordKind = {
  /** A captured write; payload = the bytes. */
  write: 1,
  /** A captured write of zeros; no payload. */
  zero: 2,
  /** A captured discard: reads as zeros afterwards (Tidemark's rule; NBD leaves it open). No payload. */
  discard: 3,
  /** First-sync data, written to the replica directly and never journaled; payload = the bytes. */
  base: 4,
  /** Sync data that goes through the journal; payload = the bytes. */
  syncWrite: 5,
  /** Sync zeros that go through the journal. No payload. */
  syncZero: 6,
  /** A checkpoint mark; payload = JSON, see {@link CheckpointMark}. Always the last record of its block. */
  checkpoint: 7,
  /** Opens a sync range; payload = JSON, see {@link SyncMark}. */
  syncBegin: 8,
  /** Closes a sync range; payload = JSON, see {@link SyncMark}. */
  syncEnd: 9,
  /** A disk was added, grown or removed; payload = JSON, see {@link DiskChange}. Always alone in its block. */
  diskChange: 10,
} as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];

/** `payload`: lengthBytes of the body belong to the record. `data`/`zero`: changes the disk's bytes. */
export const recordKinds: Record<RecordKind, { payload: boolean; data: boolean; zero: boolean; sync: boolean }> = {
  1: { payload: true, data: true, zero: false, sync: false },
  2: { payload: false, data: false, zero: true, sync: false },
  3: { payload: false, data: false, zero: true, sync: false },
  4: { payload: true, data: false, zero: false, sync: true },
  5: { payload: true, data: true, zero: false, sync: true },
  6: { payload: false, data: false, zero: true, sync: true },
  7: { payload: true, data: false, zero: false, sync: false },
  8: { payload: true, data: false, zero: false, sync: true },
  9: { payload: true, data: false, zero: false, sync: true },
  10: { payload: true, data: false, zero: false, sync: false },
};

export interface BlockRecord {
  readonly kind: RecordKind;
  /** Index of the disk in the group; 0 for records that are about no disk. */
  readonly disk: number;
  readonly lengthBytes: number;
  readonly offsetBytes: number;
  /** Where the payload starts in the raw body; 0 without payload. */
  readonly bodyOffset: number;
  readonly sequence: number;
}

export type CheckpointKind = 'crash' | 'application' | 'tagged';

/** Payload of a checkpoint record. */
export interface CheckpointMark {
  /** Sortable by time, unique in the group: 10 characters of time, 6 random, lower-case base 32. */
  readonly id: string;
  readonly kind: CheckpointKind;
  /** Person's label of a tagged checkpoint. */
  readonly label?: string;
  /** Milliseconds since the Unix epoch on the source's clock, monotonic within a group. */
  readonly sourceTimeMs: number;
  /** Disks (indexes) of this stream that were still syncing at the mark; empty: all were there. */
  readonly disksMissing: readonly number[];
  /** Disks of the source that the target had not taken yet when the mark was placed; it is incomplete then. */
  readonly disksUnknown?: number;
  /** Set in a group of several streams: the mark counts only with the coordinator's verdict. */
  readonly barrier?: string;
  /**
   * Of kind `application`: made under a hold whose proof comes after it, as a verdict of the stream. Until then, and without
   * a verdict that proves it, the checkpoint is a crash checkpoint.
   */
  readonly provisional?: boolean;
  /** What hooks recorded, free of secrets. */
  readonly attributes?: Readonly<Record<string, unknown>>;
}

export type SyncKind = 'initial' | 'bitmap' | 'delta';

export interface SyncMark {
  readonly syncId: string;
  readonly kind: SyncKind;
  readonly disks: readonly number[];
}

/**
 * From its sequence on the group has other disks: marks before it are opened with the disks and sizes of their moment. The
 * target has agreed before (`welcome`), so that a change in the stream is never refused by policy.
 */
export type DiskChange =
  /** `disk`: the index that the welcome gave. */
  | { readonly change: 'add'; readonly disk: number; readonly name: string; readonly sizeBytes: number }
  /** Only upwards; what is new is synced before the disk counts in a mark again. */
  | { readonly change: 'grow'; readonly disk: number; readonly sizeBytes: number }
  /** Nothing of the disk follows; its index is never given again. */
  | { readonly change: 'remove'; readonly disk: number }
  /** Nothing of the disk follows from this source: its VM is at another host, whose agent may go on with that index. */
  | { readonly change: 'leave'; readonly disk: number };
