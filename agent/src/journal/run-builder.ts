/** Flattens records, in journal order, into a run: a small sorted list that spills into runs merged by equal size. */
import { comparePlaces, ExtentWriter, isContinued, type Extent } from './extent.js';
import { mergeInMemory } from './overlay.js';
import { MemoryRun } from './run.js';

/** Extents of the small list; inserting moves at most this many references. */
const listMax = 512;

export class RunBuilder {
  /** Sorted, non-overlapping; newer than every run. */
  #list: Extent[] = [];
  /** Oldest and greatest first; sizes fall by more than half from one to the next. */
  #runs: MemoryRun[] = [];
  #snapshot: MemoryRun | undefined;

  /** Lays the extent over everything added before. */
  add(extent: Extent): void {
    if (extent.lengthBytes === 0) return;
    this.#snapshot = undefined;
    this.#insert(extent);
    if (this.#list.length >= listMax) this.#spill();
  }

  /** The run of everything added so far. Kept until the next `add`. */
  run(): MemoryRun {
    if (this.#snapshot === undefined) {
      this.#spill();
      if (this.#runs.length > 1) this.#runs = [mergeInMemory(this.#runs.toReversed())];
      this.#snapshot = this.#runs[0] ?? new MemoryRun(Buffer.alloc(0));
    }
    return this.#snapshot;
  }

  #insert(extent: Extent): void {
    const list = this.#list;
    const endBytes = extent.offsetBytes + extent.lengthBytes;
    // The first extent that ends after the new one's start.
    let low = 0;
    let high = list.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const other = list[middle] as Extent;
      const otherEnd = other.offsetBytes + other.lengthBytes;
      if (comparePlaces(other.disk, otherEnd, extent.disk, extent.offsetBytes) <= 0) low = middle + 1;
      else high = middle;
    }
    const before = list[low - 1];
    let end = low;
    const replacement: Extent[] = [extent];
    for (; end < list.length; end++) {
      const other = list[end] as Extent;
      if (other.disk !== extent.disk || other.offsetBytes >= endBytes) break;
      if (other.offsetBytes < extent.offsetBytes)
        replacement.unshift(clip(other, other.offsetBytes, extent.offsetBytes));
      const otherEnd = other.offsetBytes + other.lengthBytes;
      if (otherEnd > endBytes) replacement.push(clip(other, endBytes, otherEnd));
    }
    if (end === low && before !== undefined && isContinued(before, extent)) {
      before.lengthBytes += extent.lengthBytes;
      return;
    }
    if (end === low && low === list.length) list.push(extent);
    else list.splice(low, end - low, ...replacement);
  }

  #spill(): void {
    if (this.#list.length === 0) return;
    const writer = new ExtentWriter(this.#list.length);
    for (const extent of this.#list) writer.push(extent);
    this.#list = [];
    let run = new MemoryRun(writer.finish());
    for (;;) {
      const older = this.#runs.at(-1);
      if (older === undefined || older.extentCount > run.extentCount * 2) break;
      this.#runs.pop();
      run = mergeInMemory([run, older]);
    }
    this.#runs.push(run);
  }
}

function clip(extent: Extent, fromBytes: number, toBytes: number): Extent {
  const skipBytes = fromBytes - extent.offsetBytes;
  return {
    ...extent,
    offsetBytes: fromBytes,
    lengthBytes: toBytes - fromBytes,
    bodyOffset: extent.zero ? 0 : extent.bodyOffset + skipBytes,
  };
}
