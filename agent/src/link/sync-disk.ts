/**
 * One disk as a link's sync sees it: what is still to be read from the source, and whether a sync range is open.
 *
 * The target learns of a change by the hello of a new connection and a `diskChange` in the stream. Until it has agreed, the
 * disk is here as the target knows it: a new one has no index, a grown one its old size. Writes outside are not kept,
 * because all that is new is synced from its `diskChange` on, behind which capture is on.
 */
import type { SyncMark } from '../block/record.js';
import type { Extent } from '../nbd/backend.js';
import { DirtyMap, dirtyChunkBytes } from './dirty-map.js';

/** The part of a block device that a sync reads. */
export interface DiskReader {
  read(target: Uint8Array, offsetBytes: number): Promise<void>;
  /** Runs from the range's start; see ExportBackend.extents. */
  extents?(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]>;
}

/** A pass over the whole disk, in chunks. */
export interface Scan {
  /** `initial`: base data of a replica that is all zeros; `delta`: digests, the target says what it needs. */
  readonly kind: 'initial' | 'delta';
  nextChunk: number;
  /** The first that is not scanned; what a growth adds later is dirty instead. */
  readonly endChunk: number;
}

export class SyncDisk {
  readonly name: string;
  /** As the target knows it. */
  sizeBytes: number;
  /** As it is at the source. */
  sourceSizeBytes: number;
  reader: DiskReader | undefined;
  readonly dirty: DirtyMap;
  /** Of a new incarnation: the target had so much of the disk before; behind it nothing was ever compared. */
  sizeBefore = 0;
  /** It left the group, for ever. */
  removed = false;
  /** Why the target does not take the disk, or its size. */
  refused: string | undefined;
  /** It does not for good: marks are complete without the disk. */
  leftOut = false;
  /** Index at the target; undefined: the target has no such disk, nothing of it is captured. */
  target: number | undefined;
  scan: Scan | undefined;
  private scanEndChunk = 0;
  /** The sync range that is open in the stream. */
  open: SyncMark | undefined;
  /** Digest requests whose answer is not there. */
  readonly asked = new Map<number, { firstChunk: number; count: number }>();
  /** Bytes to do when the sync began, for progress. */
  totalBytes = 0;

  constructor(name: string, sizeBytes: number, reader: DiskReader | undefined) {
    this.name = name;
    this.sizeBytes = sizeBytes;
    this.sourceSizeBytes = sizeBytes;
    this.reader = reader;
    this.dirty = new DirtyMap(sizeBytes);
  }

  /** The target does not know the size yet: no mark may count the disk. */
  get isGrowing(): boolean {
    return this.sizeBytes < this.sourceSizeBytes;
  }

  /** The target knows this size from now on; nothing is dirty by it. */
  take(sizeBytes: number): void {
    this.sizeBytes = sizeBytes;
    this.dirty.sizeBytes = sizeBytes;
  }

  /** All of it, once. */
  startScan(kind: Scan['kind']): void {
    this.scanEndChunk = this.dirty.chunkCount;
    this.scan = { kind, nextChunk: 0, endChunk: this.scanEndChunk };
  }

  /** Nothing is left to be read (reads under way are the runner's to know). */
  get isDone(): boolean {
    return this.dirty.isEmpty && this.scan === undefined && this.asked.size === 0;
  }

  get leftBytes(): number {
    const { scan } = this;
    const scanned = scan === undefined ? 0 : (scan.endChunk - scan.nextChunk) * dirtyChunkBytes;
    return Math.min(this.sizeBytes, this.dirty.dirtyBytes + Math.max(0, scanned));
  }

  /** Goes back so that a chunk is scanned again. */
  rewind(kind: Scan['kind'], chunk: number): void {
    if (this.scan === undefined) this.scan = { kind, nextChunk: chunk, endChunk: this.scanEndChunk };
    else this.scan.nextChunk = Math.min(this.scan.nextChunk, chunk);
  }

  /** A new incarnation: all that was known is void. */
  reset(): void {
    this.forget();
    this.take(this.sourceSizeBytes);
  }

  /** Nothing of it is captured or synced any more. */
  forget(): void {
    this.dirty.clear();
    this.scan = undefined;
    this.open = undefined;
    this.asked.clear();
    this.target = undefined;
    this.refused = undefined;
    this.leftOut = false;
    this.totalBytes = 0;
  }
}
