/** Which chunks of a disk must be read from the source: one bit for 64 KiB, pages made when first marked. */
import { digestChunkBytes } from '../stream/messages.js';

export const dirtyChunkBytes = digestChunkBytes;
const pageChunkCount = 65_536;

/** Memory bound: sizeBytes / 524,288 (2 MiB for a disk of 1 TiB). */
export class DirtyMap {
  sizeBytes: number;
  private readonly pages = new Map<number, Uint8Array>();
  private dirtyCount = 0;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  get chunkCount(): number {
    return Math.ceil(this.sizeBytes / dirtyChunkBytes);
  }

  /** About: whole chunks. */
  get dirtyBytes(): number {
    return Math.min(this.sizeBytes, this.dirtyCount * dirtyChunkBytes);
  }

  get isEmpty(): boolean {
    return this.dirtyCount === 0;
  }

  /** Marks every chunk of the disk that the range touches. */
  mark(offsetBytes: number, lengthBytes: number): void {
    if (lengthBytes === 0) return;
    const last = Math.floor((Math.min(offsetBytes + lengthBytes, this.sizeBytes) - 1) / dirtyChunkBytes);
    for (let chunk = Math.floor(offsetBytes / dirtyChunkBytes); chunk <= last; chunk++) this.set(chunk, true);
  }

  /** Clears the chunks that lie wholly in the range (the end of the disk counts as a chunk's end). */
  clearWithin(offsetBytes: number, lengthBytes: number): void {
    if (this.dirtyCount === 0) return;
    const end = offsetBytes + lengthBytes;
    const stop = end >= this.sizeBytes ? this.chunkCount : Math.floor(end / dirtyChunkBytes);
    for (let chunk = Math.ceil(offsetBytes / dirtyChunkBytes); chunk < stop; chunk++) this.set(chunk, false);
  }

  has(chunk: number): boolean {
    const page = this.pages.get(Math.floor(chunk / pageChunkCount));
    if (page === undefined) return false;
    const bit = chunk % pageChunkCount;
    return ((page[bit >> 3] as number) & (1 << (bit & 7))) !== 0;
  }

  /** Takes the first run of at most `countMax` dirty chunks out of the map. */
  take(countMax: number): { firstChunk: number; count: number } | undefined {
    if (this.dirtyCount === 0) return undefined;
    const firstChunk = this.first();
    let count = 0;
    while (count < countMax && firstChunk + count < this.chunkCount && this.has(firstChunk + count)) {
      this.set(firstChunk + count, false);
      count++;
    }
    return { firstChunk, count };
  }

  clear(): void {
    this.pages.clear();
    this.dirtyCount = 0;
  }

  private first(): number {
    const numbers = [...this.pages.keys()].sort((a, b) => a - b);
    for (const number of numbers) {
      const page = this.pages.get(number) as Uint8Array;
      const index = page.findIndex((byte) => byte !== 0);
      if (index < 0) {
        this.pages.delete(number);
        continue;
      }
      const bit = 31 - Math.clz32((page[index] as number) & -(page[index] as number));
      return number * pageChunkCount + index * 8 + bit;
    }
    return 0;
  }

  private set(chunk: number, dirty: boolean): void {
    if (this.has(chunk) === dirty) return;
    const number = Math.floor(chunk / pageChunkCount);
    let page = this.pages.get(number);
    if (page === undefined) this.pages.set(number, (page = new Uint8Array(pageChunkCount / 8)));
    const bit = chunk % pageChunkCount;
    page[bit >> 3] = (page[bit >> 3] as number) ^ (1 << (bit & 7));
    this.dirtyCount += dirty ? 1 : -1;
  }
}
