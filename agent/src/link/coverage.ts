/** Which bytes of which disks newer records already cover: folding walks from the newest record to the oldest. */

const bucketBytes = 1024 * 1024;
/** A record of more bytes is kept in a list of its own, not in buckets. */
const bigBytes = 64 * 1024 * 1024;
/** So many such records end a fold window. */
export const bigCountMax = 256;

export interface ByteRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Flat list start, end, start, end… in order, disjoint. */
type Intervals = number[];

export class Coverage {
  private readonly buckets = new Map<number, Map<number, Intervals>>();
  private readonly big = new Map<number, ByteRange[]>();
  bigCount = 0;

  /** The parts of a range that nothing newer covers, in offset order; they are covered from now on. */
  claim(disk: number, offsetBytes: number, lengthBytes: number): ByteRange[] {
    const seenThroughBig = this.cutByBig(disk, { offsetBytes, lengthBytes });
    const free: ByteRange[] = [];
    for (const piece of seenThroughBig) this.cutByBuckets(disk, piece, free, lengthBytes < bigBytes);
    if (lengthBytes >= bigBytes) {
      this.bigCount++;
      const list = this.big.get(disk);
      if (list === undefined) this.big.set(disk, [{ offsetBytes, lengthBytes }]);
      else list.push({ offsetBytes, lengthBytes });
    }
    return free;
  }

  private cutByBig(disk: number, range: ByteRange): ByteRange[] {
    let pieces: ByteRange[] = [range];
    for (const cover of this.big.get(disk) ?? []) pieces = pieces.flatMap((piece) => subtract(piece, cover));
    return pieces;
  }

  private cutByBuckets(disk: number, range: ByteRange, free: ByteRange[], cover: boolean): void {
    let ofDisk = this.buckets.get(disk);
    if (ofDisk === undefined) this.buckets.set(disk, (ofDisk = new Map()));
    const end = range.offsetBytes + range.lengthBytes;
    let at = range.offsetBytes;
    while (at < end) {
      const index = Math.floor(at / bucketBytes);
      const stop = Math.min(end, (index + 1) * bucketBytes);
      let intervals = ofDisk.get(index);
      if (intervals === undefined) {
        intervals = [];
        if (cover) ofDisk.set(index, intervals);
      }
      for (const gap of gaps(intervals, at, stop)) pushMerged(free, gap);
      if (cover) insert(intervals, at, stop);
      at = stop;
    }
  }
}

/** What is left of `piece` outside `cover`. */
export function subtract(piece: ByteRange, cover: ByteRange): ByteRange[] {
  const end = piece.offsetBytes + piece.lengthBytes;
  const coverEnd = cover.offsetBytes + cover.lengthBytes;
  if (coverEnd <= piece.offsetBytes || cover.offsetBytes >= end) return [piece];
  const left: ByteRange[] = [];
  if (cover.offsetBytes > piece.offsetBytes)
    left.push({ offsetBytes: piece.offsetBytes, lengthBytes: cover.offsetBytes - piece.offsetBytes });
  if (coverEnd < end) left.push({ offsetBytes: coverEnd, lengthBytes: end - coverEnd });
  return left;
}

function pushMerged(list: ByteRange[], range: ByteRange): void {
  const last = list.at(-1);
  if (last !== undefined && last.offsetBytes + last.lengthBytes === range.offsetBytes)
    list[list.length - 1] = { offsetBytes: last.offsetBytes, lengthBytes: last.lengthBytes + range.lengthBytes };
  else list.push(range);
}

function gaps(intervals: Intervals, start: number, end: number): ByteRange[] {
  const found: ByteRange[] = [];
  let at = start;
  for (let index = 0; index < intervals.length && at < end; index += 2) {
    const from = intervals[index] as number;
    const to = intervals[index + 1] as number;
    if (to <= at) continue;
    if (from >= end) break;
    if (from > at) found.push({ offsetBytes: at, lengthBytes: from - at });
    at = Math.max(at, to);
  }
  if (at < end) found.push({ offsetBytes: at, lengthBytes: end - at });
  return found;
}

/** Adds start…end, joined with what it touches. */
function insert(intervals: Intervals, start: number, end: number): void {
  let from = 0;
  while (from < intervals.length && (intervals[from + 1] as number) < start) from += 2;
  let to = from;
  let low = start;
  let high = end;
  while (to < intervals.length && (intervals[to] as number) <= end) {
    low = Math.min(low, intervals[to] as number);
    high = Math.max(high, intervals[to + 1] as number);
    to += 2;
  }
  intervals.splice(from, to - from, low, high);
}
