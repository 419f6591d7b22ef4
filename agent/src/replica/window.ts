/** Changes to chunks of one disk, gathered in bounded memory before they go to the replica together. */
import { chunkBytes } from './digest.js';

/** Chunks with bytes (64 KiB each) that a window holds before it wants to be applied. */
export const windowChunksMax = 256;
/** Chunks without bytes (whole zeros). */
const windowZeroChunksMax = 65_536;

export interface WindowChunk {
  readonly chunk: number;
  /** Undefined: the whole chunk becomes zeros. */
  content: Buffer | undefined;
  /** Sorted, disjoint [start, end) in the chunk that the change covers. */
  ranges: [number, number][];
}

export class ChunkWindow {
  readonly chunks = new Map<number, WindowChunk>();
  #contentCount = 0;

  get isFull(): boolean {
    return this.#contentCount >= windowChunksMax || this.chunks.size >= windowZeroChunksMax;
  }

  /** Where the bytes of [start, start + length) of the chunk go; the caller fills it before the window is applied. */
  place(chunk: number, start: number, lengthBytes: number): Buffer {
    const entry = this.#entry(chunk);
    if (entry.content === undefined) {
      entry.content = Buffer.alloc(chunkBytes);
      this.#contentCount++;
    }
    cover(entry, start, start + lengthBytes);
    return entry.content.subarray(start, start + lengthBytes);
  }

  zero(chunk: number, start: number, lengthBytes: number): void {
    if (lengthBytes === chunkBytes) {
      const entry = this.#entry(chunk);
      if (entry.content !== undefined) this.#contentCount--;
      entry.content = undefined;
      entry.ranges = [[0, chunkBytes]];
    } else {
      this.place(chunk, start, lengthBytes).fill(0);
    }
  }

  /** A change up to the end of the disk covers its short last chunk: what lies behind is zero. */
  extendTail(sizeBytes: number): void {
    const end = sizeBytes % chunkBytes;
    const entry = this.chunks.get((sizeBytes - end) / chunkBytes);
    if (end > 0 && entry?.content !== undefined && entry.ranges.at(-1)?.[1] === end) cover(entry, end, chunkBytes);
  }

  #entry(chunk: number): WindowChunk {
    let entry = this.chunks.get(chunk);
    if (entry === undefined) {
      entry = { chunk, content: undefined, ranges: [] };
      this.chunks.set(chunk, entry);
    }
    return entry;
  }
}

function cover(entry: WindowChunk, start: number, end: number): void {
  const kept: [number, number][] = [];
  let [from, to] = [start, end];
  for (const range of entry.ranges) {
    if (range[1] < from || range[0] > to) {
      kept.push(range);
    } else {
      from = Math.min(from, range[0]);
      to = Math.max(to, range[1]);
    }
  }
  kept.push([from, to]);
  entry.ranges = kept.sort((a, b) => a[0] - b[0]);
}

/** True when the change replaces the whole chunk. */
export function isWhole(entry: WindowChunk): boolean {
  const only = entry.ranges[0];
  return entry.ranges.length === 1 && only !== undefined && only[0] === 0 && only[1] === chunkBytes;
}

/** Splits a byte range of a disk at chunk borders: chunk, start in it, length, distance from the range's start. */
export function* chunkParts(
  offsetBytes: number,
  lengthBytes: number,
): Generator<{ chunk: number; start: number; lengthBytes: number; skipBytes: number }> {
  for (let at = offsetBytes; at < offsetBytes + lengthBytes;) {
    const chunk = Math.floor(at / chunkBytes);
    const start = at - chunk * chunkBytes;
    const length = Math.min(chunkBytes - start, offsetBytes + lengthBytes - at);
    yield { chunk, start, lengthBytes: length, skipBytes: at - offsetBytes };
    at += length;
  }
}
