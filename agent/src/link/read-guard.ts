/**
 * The rule that no sync read replaces a newer captured write (design rule 10): every read of the source is listed from
 * its issue to its enqueue; what is captured meanwhile is cut out of it.
 */
import { isPlanted } from '../core/planted.js';
import { subtract, type ByteRange } from './coverage.js';

export interface GuardedRead {
  readonly disk: number;
  readonly range: ByteRange;
  /** What of the range may still be sent. */
  left: ByteRange[];
}

export class ReadGuard {
  private readonly reads = new Set<GuardedRead>();

  get count(): number {
    return this.reads.size;
  }

  /** To be called before the read is issued. */
  begin(disk: number, offsetBytes: number, lengthBytes: number): GuardedRead {
    const range = { offsetBytes, lengthBytes };
    const read = { disk, range, left: [range] };
    this.reads.add(read);
    return read;
  }

  /** To be called in the same turn as the read's data are given their sequence. */
  end(read: GuardedRead): readonly ByteRange[] {
    this.reads.delete(read);
    return read.left;
  }

  /** A write (or zero, discard, failed write) was captured. */
  carve(disk: number, offsetBytes: number, lengthBytes: number): void {
    if (this.reads.size === 0 || isPlanted('stale-sync-read-wins')) return;
    for (const read of this.reads) {
      if (read.disk === disk) read.left = read.left.flatMap((piece) => subtract(piece, { offsetBytes, lengthBytes }));
    }
  }

  isReading(disk: number): boolean {
    for (const read of this.reads) if (read.disk === disk) return true;
    return false;
  }
}
