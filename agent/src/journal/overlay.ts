/** Lays runs over one another, newest first: each byte comes from the newest run that says something of it. */
import { extentBytes, ExtentWriter, readDisk, readExtent, readLength, readOffset, type Extent } from './extent.js';
import { firstExtentAfter, MemoryRun, type Run } from './run.js';

/** Walks the extents of a run from a place on. `state` is `load` when the next page must be loaded first. */
export class Cursor {
  disk = 0;
  startBytes = 0;
  endBytes = 0;
  state: 'ready' | 'load' | 'end' = 'load';
  #page: DataView | undefined;
  #pageIndex: number;
  #at = 0;

  constructor(
    private readonly run: Run,
    private readonly fromDisk = 0,
    private readonly fromBytes = 0,
  ) {
    this.#pageIndex = run.pageOf(fromDisk, fromBytes);
    if (run.pageCount === 0) this.state = 'end';
  }

  extent(): Extent {
    return readExtent(this.#page as DataView, this.#at);
  }

  advance(): void {
    this.#at += extentBytes;
    this.#settle();
  }

  /** Loads the next page; a promise only when it is not in memory. */
  load(): void | Promise<void> {
    const page = this.run.page(this.#pageIndex);
    if (page instanceof Promise) return page.then((loaded) => this.#take(loaded));
    this.#take(page);
  }

  #take(page: DataView): void {
    const first = this.#page === undefined;
    this.#page = page;
    this.#at = first ? firstExtentAfter(page, this.fromDisk, this.fromBytes) * extentBytes : 0;
    this.#settle();
  }

  #settle(): void {
    const page = this.#page as DataView;
    if (this.#at >= page.byteLength) {
      this.#pageIndex++;
      this.state = this.#pageIndex < this.run.pageCount ? 'load' : 'end';
      return;
    }
    this.state = 'ready';
    this.disk = readDisk(page, this.#at);
    this.startBytes = readOffset(page, this.#at);
    this.endBytes = this.startBytes + readLength(page, this.#at);
  }
}

/** The merged extents of cursors given newest first, from a place on: nothing before it is given. */
export class Overlay {
  #disk: number;
  #atBytes: number;

  constructor(
    private readonly cursors: readonly Cursor[],
    fromDisk = 0,
    fromBytes = 0,
  ) {
    this.#disk = fromDisk;
    this.#atBytes = fromBytes;
  }

  /** The next extent in order, a cursor that must be loaded before the next call, or undefined at the end. */
  next(): Extent | Cursor | undefined {
    for (;;) {
      let limitBytes = Infinity;
      let nextDisk = Infinity;
      let nextBytes = Infinity;
      for (const cursor of this.cursors) {
        while (
          cursor.state === 'ready' &&
          (cursor.disk < this.#disk || (cursor.disk === this.#disk && cursor.endBytes <= this.#atBytes))
        ) {
          cursor.advance();
        }
        if (cursor.state === 'load') return cursor;
        if (cursor.state === 'end') continue;
        if (cursor.disk === this.#disk) {
          if (cursor.startBytes <= this.#atBytes) return this.#emit(cursor, Math.min(cursor.endBytes, limitBytes));
          limitBytes = Math.min(limitBytes, cursor.startBytes);
        }
        if (cursor.disk < nextDisk || (cursor.disk === nextDisk && cursor.startBytes < nextBytes)) {
          nextDisk = cursor.disk;
          nextBytes = cursor.startBytes;
        }
      }
      if (nextDisk === Infinity) return undefined;
      this.#disk = nextDisk;
      this.#atBytes = nextBytes;
    }
  }

  #emit(cursor: Cursor, endBytes: number): Extent {
    const extent = cursor.extent();
    const skipBytes = this.#atBytes - extent.offsetBytes;
    extent.offsetBytes = this.#atBytes;
    extent.lengthBytes = endBytes - this.#atBytes;
    if (!extent.zero) extent.bodyOffset += skipBytes;
    this.#atBytes = endBytes;
    return extent;
  }
}

/** Merges runs in memory, newest first. */
export function mergeInMemory(newestFirst: readonly MemoryRun[]): MemoryRun {
  const cursors = newestFirst.map((run) => new Cursor(run));
  const overlay = new Overlay(cursors);
  const writer = new ExtentWriter(newestFirst.reduce((sum, run) => sum + run.extentCount, 16));
  for (;;) {
    const next = overlay.next();
    if (next === undefined) return new MemoryRun(writer.finish());
    if (next instanceof Cursor) void next.load();
    else writer.push(next);
  }
}
