/** One disk as a link's sync sees it: what is still to be read from the source, and whether a sync range is open. */
import type { SyncMark } from '../block/record.js';
import type { Extent } from '../nbd/backend.js';
import { DirtyMap } from './dirty-map.js';

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
}

export class SyncDisk {
  readonly name: string;
  readonly sizeBytes: number;
  readonly reader: DiskReader | undefined;
  readonly dirty: DirtyMap;
  /** Index at the target; undefined: the target has no such disk, nothing of it is captured. */
  target: number | undefined;
  scan: Scan | undefined;
  /** The sync range that is open in the stream. */
  open: SyncMark | undefined;
  /** Digest requests whose answer is not there. */
  readonly asked = new Map<number, { firstChunk: number; count: number }>();
  /** Bytes to do when the sync began, for progress. */
  totalBytes = 0;

  constructor(name: string, sizeBytes: number, reader: DiskReader | undefined) {
    this.name = name;
    this.sizeBytes = sizeBytes;
    this.reader = reader;
    this.dirty = new DirtyMap(sizeBytes);
  }

  /** Nothing is left to be read (reads under way are the runner's to know). */
  get isDone(): boolean {
    return this.dirty.isEmpty && this.scan === undefined && this.asked.size === 0;
  }

  get leftBytes(): number {
    const scanned = this.scan === undefined ? 0 : this.sizeBytes - this.scan.nextChunk * 65_536;
    return Math.min(this.sizeBytes, this.dirty.dirtyBytes + Math.max(0, scanned));
  }

  /** Goes back so that a chunk is scanned again. */
  rewind(kind: Scan['kind'], chunk: number): void {
    if (this.scan === undefined) this.scan = { kind, nextChunk: chunk };
    else this.scan.nextChunk = Math.min(this.scan.nextChunk, chunk);
  }

  /** A new incarnation: all that was known is void. */
  reset(): void {
    this.dirty.clear();
    this.scan = undefined;
    this.open = undefined;
    this.asked.clear();
    this.target = undefined;
    this.totalBytes = 0;
  }
}
