/**
 * A run: the final state of each disk after a part of the journal, as extents in order, in pages of {@link pageExtents}.
 * In a file (segment footer or merged run): the pages, then one fence a page (32 bytes: offset low (4), offset high (2),
 * disk (2), crc32 of the page (4), zeros (20)); the fences are loaded when the file is opened, pages when needed.
 */
import { crc32 } from 'node:zlib';
import type { BoundedCache } from './bounded-cache.js';
import { extentBytes, pageExtents, readDisk, readOffset, viewOf } from './extent.js';

/** A page of a run file whose checksum is wrong. Runs are an index: the caller rebuilds it from the entries. */
export class RunDamaged extends Error {
  constructor(readonly run: Run) {
    super('a page of an index run is damaged');
  }
}

export interface Run {
  readonly extentCount: number;
  readonly pageCount: number;
  /** The last page whose first extent is at or before the place; 0 when there is none. */
  pageOf(disk: number, offsetBytes: number): number;
  /** A promise only when the page is not in memory. */
  page(index: number): DataView | Promise<DataView>;
}

/** A run that lies in memory whole. */
export class MemoryRun implements Run {
  readonly #view: DataView;
  readonly extentCount: number;
  readonly pageCount: number;

  constructor(readonly bytes: Buffer) {
    this.#view = viewOf(bytes);
    this.extentCount = bytes.length / extentBytes;
    this.pageCount = bytes.length === 0 ? 0 : 1;
  }

  pageOf(): number {
    return 0;
  }

  page(): DataView {
    return this.#view;
  }
}

export const fenceBytes = 32;

/** The fences of a packed run. */
export function encodeFences(run: Buffer): Buffer {
  const pageBytes = pageExtents * extentBytes;
  const fences = Buffer.alloc(Math.ceil(run.length / pageBytes) * fenceBytes);
  for (let index = 0; index * pageBytes < run.length; index++) {
    const page = run.subarray(index * pageBytes, (index + 1) * pageBytes);
    encodeFence(page).copy(fences, index * fenceBytes);
  }
  return fences;
}

export function encodeFence(page: Buffer): Buffer {
  const fence = Buffer.alloc(fenceBytes);
  page.copy(fence, 0, 0, 8);
  fence.writeUInt32LE(crc32(page), 8);
  return fence;
}

let runCount = 0;

/** Reads `lengthBytes` at a position of the run's file. */
export type RunReader = (positionBytes: number, lengthBytes: number) => Promise<Buffer>;

/** A run in a file: fences in memory, pages through the journal's bounded cache. */
export class FileRun implements Run {
  readonly pageCount: number;
  readonly #disks: Uint16Array;
  readonly #offsets: Float64Array;
  readonly #checksums: Uint32Array;
  readonly #uid = runCount++;

  constructor(
    private readonly read: RunReader,
    private readonly cache: BoundedCache<number, DataView>,
    private readonly positionBytes: number,
    readonly extentCount: number,
    fences: Buffer,
  ) {
    this.pageCount = fences.length / fenceBytes;
    this.#disks = new Uint16Array(this.pageCount);
    this.#offsets = new Float64Array(this.pageCount);
    this.#checksums = new Uint32Array(this.pageCount);
    const view = viewOf(fences);
    for (let index = 0; index < this.pageCount; index++) {
      this.#disks[index] = readDisk(view, index * fenceBytes);
      this.#offsets[index] = readOffset(view, index * fenceBytes);
      this.#checksums[index] = view.getUint32(index * fenceBytes + 8, true);
    }
  }

  pageOf(disk: number, offsetBytes: number): number {
    let low = 0;
    let high = this.pageCount;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const before = (this.#disks[middle] as number) - disk || (this.#offsets[middle] as number) - offsetBytes;
      if (before <= 0) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  page(index: number): DataView | Promise<DataView> {
    return this.cache.get(this.#uid * 0x100_0000 + index) ?? this.#load(index);
  }

  async #load(index: number): Promise<DataView> {
    const from = index * pageExtents;
    const count = Math.min(pageExtents, this.extentCount - from);
    const bytes = await this.read(this.positionBytes + from * extentBytes, count * extentBytes);
    if (bytes.length !== count * extentBytes || crc32(bytes) !== this.#checksums[index]) throw new RunDamaged(this);
    const view = viewOf(bytes);
    this.cache.set(this.#uid * 0x100_0000 + index, view, bytes.length);
    return view;
  }
}

/** Index of the first extent of the page that ends after the place. */
export function firstExtentAfter(page: DataView, disk: number, offsetBytes: number): number {
  let low = 0;
  let high = page.byteLength / extentBytes;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const at = middle * extentBytes;
    const before = readDisk(page, at) - disk || readOffset(page, at) + page.getUint32(at + 8, true) - offsetBytes;
    if (before <= 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
