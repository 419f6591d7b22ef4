/**
 * The extent: one run of a disk and where its bytes lie; the 32-byte entry of every index.
 *
 * Layout (little-endian): 0 offset, low 32 bits (4), 4 offset, high 16 bits (2), 6 disk (2), 8 length (4), 12 kind: 1 data,
 * 2 zero (1), 13 reserved 0 (3), 16 segment id (4), 20 position of the entry in the segment file (4), 24 position in
 * the entry's raw body (4), 28 reserved 0 (4). Order in a run: by (disk, offset), non-overlapping.
 */
import { invariant } from '../core/invariant.js';

export const extentBytes = 32;
/** Extents of one page of a run. */
export const pageExtents = 128;
const lengthBytesMax = 0x7fffffff;

export interface Extent {
  disk: number;
  offsetBytes: number;
  lengthBytes: number;
  zero: boolean;
  segmentId: number;
  /** Where the entry starts in the segment's file. */
  entryPosition: number;
  /** Where the extent's first byte is in the entry's raw body; 0 for zeros. */
  bodyOffset: number;
}

/** Negative when the place (disk, offset) of `a` is before that of b. */
export function comparePlaces(diskA: number, offsetA: number, diskB: number, offsetB: number): number {
  return diskA - diskB || offsetA - offsetB;
}

export function readOffset(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint16(at + 4, true) * 0x1_0000_0000;
}

export function readDisk(view: DataView, at: number): number {
  return view.getUint16(at + 6, true);
}

export function readLength(view: DataView, at: number): number {
  return view.getUint32(at + 8, true);
}

export function readExtent(view: DataView, at: number): Extent {
  return {
    disk: readDisk(view, at),
    offsetBytes: readOffset(view, at),
    lengthBytes: readLength(view, at),
    zero: view.getUint8(at + 12) === 2,
    segmentId: view.getUint32(at + 16, true),
    entryPosition: view.getUint32(at + 20, true),
    bodyOffset: view.getUint32(at + 24, true),
  };
}

/** True when `b` goes on where `a` ends, on the disk and in the source. */
export function isContinued(a: Extent, b: Extent): boolean {
  return (
    a.disk === b.disk &&
    a.offsetBytes + a.lengthBytes === b.offsetBytes &&
    a.zero === b.zero &&
    a.segmentId === b.segmentId &&
    (a.zero || (a.entryPosition === b.entryPosition && a.bodyOffset + a.lengthBytes === b.bodyOffset)) &&
    a.lengthBytes + b.lengthBytes <= lengthBytesMax
  );
}

/** Packs extents in order into a growing buffer, joining those that continue each other. */
export class ExtentWriter {
  #buffer: Buffer;
  #view: DataView;
  #count = 0;
  #last: Extent | undefined;

  constructor(countHint = 64) {
    this.#buffer = Buffer.alloc(countHint * extentBytes);
    this.#view = viewOf(this.#buffer);
  }

  /** Extents packed so far; the last one may still grow. */
  get count(): number {
    return this.#count + (this.#last ? 1 : 0);
  }

  push(extent: Extent): void {
    const last = this.#last;
    if (last !== undefined && isContinued(last, extent)) {
      last.lengthBytes += extent.lengthBytes;
      return;
    }
    if (last !== undefined) this.#write(last);
    this.#last = { ...extent };
  }

  finish(): Buffer {
    if (this.#last !== undefined) this.#write(this.#last);
    this.#last = undefined;
    const used = this.#buffer.subarray(0, this.#count * extentBytes);
    return used.length * 2 < this.#buffer.length ? Buffer.from(used) : used;
  }

  #write(extent: Extent): void {
    if ((this.#count + 1) * extentBytes > this.#buffer.length) {
      this.#buffer = Buffer.concat([this.#buffer, Buffer.alloc(Math.max(this.#buffer.length, extentBytes))]);
      this.#view = viewOf(this.#buffer);
    }
    const at = this.#count++ * extentBytes;
    const view = this.#view;
    invariant(extent.offsetBytes < 2 ** 48, 'extent: offset over 2^48');
    view.setUint32(at, extent.offsetBytes % 0x1_0000_0000, true);
    view.setUint16(at + 4, Math.floor(extent.offsetBytes / 0x1_0000_0000), true);
    view.setUint16(at + 6, extent.disk, true);
    view.setUint32(at + 8, extent.lengthBytes, true);
    view.setUint8(at + 12, extent.zero ? 2 : 1);
    view.setUint32(at + 16, extent.segmentId, true);
    view.setUint32(at + 20, extent.zero ? 0 : extent.entryPosition, true);
    view.setUint32(at + 24, extent.zero ? 0 : extent.bodyOffset, true);
  }
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
