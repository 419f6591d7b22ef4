/** One disk as it was at a cut: the journal's pieces over the replica. Read-only, below the scratch of a view. */
import type { JournalCut, Piece } from '../journal/types.js';
import type { Extent } from '../nbd/backend.js';
import type { ReplicaDisk } from '../replica/replica-disk.js';

/** What copies, hashes and compares need of a disk. */
export interface DiskReader {
  readonly sizeBytes: number;
  /** Fills `target`. */
  read(target: Uint8Array, offsetBytes: number): Promise<void>;
  /** Runs from the start of the range, at most `countMax`, possibly ending before it does; never none. */
  extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]>;
}

/** Longest range that one call of `extents` looks at. */
export const extentsBytesMax = 64 * 1024 * 1024;

export class CutDisk implements DiskReader {
  readonly index: number;
  readonly sizeBytes: number;
  readonly #cut: JournalCut;
  readonly #replica: ReplicaDisk;

  /** `sizeBytes`: the disk's size at the cut. */
  constructor(cut: JournalCut, replica: ReplicaDisk, sizeBytes: number) {
    this.index = replica.index;
    this.sizeBytes = sizeBytes;
    this.#cut = cut;
    this.#replica = replica;
  }

  async read(target: Uint8Array, offsetBytes: number): Promise<void> {
    const pieces = await this.#cut.lookup(this.index, offsetBytes, target.length);
    const only = pieces[0];
    if (pieces.length === 1 && only !== undefined) return this.#readPiece(only, target, offsetBytes);
    const reads = pieces.map((piece) => {
      const start = Math.max(piece.offsetBytes, offsetBytes) - offsetBytes;
      const end = Math.min(piece.offsetBytes + piece.lengthBytes - offsetBytes, target.length);
      return this.#readPiece(piece, target.subarray(start, end), offsetBytes + start);
    });
    for (const result of await Promise.allSettled(reads)) if (result.status === 'rejected') throw result.reason;
  }

  async extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]> {
    const merged = new ExtentList(countMax);
    const range = Math.min(lengthBytes, extentsBytesMax);
    for (const piece of await this.#cut.lookup(this.index, offsetBytes, range)) {
      const end = Math.min(piece.offsetBytes + piece.lengthBytes, offsetBytes + range);
      let at = Math.max(piece.offsetBytes, offsetBytes);
      while (at < end) {
        const run =
          piece.source === 'base'
            ? await this.#replica.run(at, end - at)
            : { lengthBytes: end - at, zero: piece.source === 'zero' };
        if (!merged.add(run.lengthBytes, run.zero)) return merged.extents;
        at += run.lengthBytes;
      }
    }
    return merged.extents;
  }

  #readPiece(piece: Piece, target: Uint8Array, offsetBytes: number): Promise<void> {
    if (piece.source === 'base') return this.#replica.read(target, offsetBytes);
    if (piece.source === 'data') return this.#cut.read(piece, offsetBytes - piece.offsetBytes, target);
    target.fill(0);
    return Promise.resolve();
  }
}

/** Joins equal neighbours. */
export class ExtentList {
  readonly extents: { lengthBytes: number; hole: boolean; zero: boolean }[] = [];
  readonly #countMax: number;

  constructor(countMax: number) {
    this.#countMax = countMax;
  }

  /** False when the run would be one too many; it was not added then. */
  add(lengthBytes: number, zero: boolean): boolean {
    const last = this.extents.at(-1);
    if (last !== undefined && last.zero === zero) {
      last.lengthBytes += lengthBytes;
      return true;
    }
    if (this.extents.length >= this.#countMax) return false;
    this.extents.push({ lengthBytes, hole: zero, zero });
    return true;
  }
}
