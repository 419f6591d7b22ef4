/** One disk of a view, read-write: scratch over the journal's cut over the replica, served by the NBD server. */
import { TidemarkError, isTidemarkError } from '../core/errors.js';
import { NbdError, type ExportBackend, type Extent } from '../nbd/backend.js';
import type { Payload } from '../nbd/payload.js';
import { blockBytes, blocksPerPage, entryNone, entrySlot, entryZero, type BlockMap } from './block-map.js';
import { ExtentList, extentsBytesMax, type CutDisk, type DiskReader } from './cut-disk.js';
import { RangeLock } from './range-lock.js';
import type { Scratch, SlotRun } from './scratch.js';

export class ViewDisk implements ExportBackend, DiskReader {
  readonly readOnly = false;
  readonly minimumBlockBytes = 1;
  readonly preferredBlockBytes = blockBytes;
  readonly sizeBytes: number;
  readonly index: number;
  /** NBD clients at this moment. */
  clientCount = 0;
  readonly #below: CutDisk;
  readonly #scratch: Scratch;
  readonly #map: BlockMap;
  readonly #lock = new RangeLock();

  constructor(below: CutDisk, scratch: Scratch) {
    this.#below = below;
    this.#scratch = scratch;
    this.#map = scratch.map(below.index);
    this.index = below.index;
    this.sizeBytes = below.sizeBytes;
  }

  connected(): void {
    this.clientCount++;
  }

  disconnected(): void {
    this.clientCount--;
  }

  async read(target: Uint8Array, offsetBytes: number): Promise<void> {
    try {
      const first = Math.floor(offsetBytes / blockBytes);
      const end = Math.ceil((offsetBytes + target.length) / blockBytes);
      if (this.#runEnd(first, end) >= end) return await this.#readRun(target, offsetBytes, first, end);
      const reads: Promise<void>[] = [];
      for (let block = first; block < end;) {
        const runEnd = this.#runEnd(block, end);
        const from = Math.max(block * blockBytes, offsetBytes);
        const to = Math.min(runEnd * blockBytes, offsetBytes + target.length);
        reads.push(this.#readRun(target.subarray(from - offsetBytes, to - offsetBytes), from, block, runEnd));
        block = runEnd;
      }
      for (const result of await Promise.allSettled(reads)) if (result.status === 'rejected') throw result.reason;
    } catch (error) {
      throw nbdError(error);
    }
  }

  async write(offsetBytes: number, payload: Payload, fua: boolean): Promise<void> {
    await this.#change(offsetBytes, payload.bytes.length, () => this.#write(offsetBytes, payload.bytes));
    if (fua) await this.flush();
  }

  async zero(offsetBytes: number, lengthBytes: number, _mayTrim: boolean, fua: boolean): Promise<void> {
    await this.#change(offsetBytes, lengthBytes, () => this.#zero(offsetBytes, lengthBytes));
    if (fua) await this.flush();
  }

  trim(offsetBytes: number, lengthBytes: number, fua: boolean): Promise<void> {
    return this.zero(offsetBytes, lengthBytes, true, fua);
  }

  async flush(): Promise<void> {
    try {
      await this.#scratch.flush();
    } catch (error) {
      throw nbdError(error);
    }
  }

  async extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]> {
    try {
      return await this.#extents(offsetBytes, Math.min(lengthBytes, extentsBytesMax), countMax);
    } catch (error) {
      throw nbdError(error);
    }
  }

  async #extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]> {
    const merged = new ExtentList(countMax);
    const endBytes = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < endBytes;) {
      const block = Math.floor(at / blockBytes);
      const to = Math.min(this.#runEnd(block, Math.ceil(endBytes / blockBytes)) * blockBytes, endBytes);
      const entry = this.#map.get(block);
      const runs =
        entry === entryNone
          ? await this.#below.extents(at, to - at, countMax)
          : [{ lengthBytes: to - at, zero: entry === entryZero }];
      for (const run of runs) {
        if (!merged.add(run.lengthBytes, run.zero)) return merged.extents;
        at += run.lengthBytes;
      }
    }
    return merged.extents;
  }

  /** End of the blocks from `block` on that are alike: all below, all zeros, or in consecutive slots. */
  #runEnd(block: number, end: number): number {
    const map = this.#map;
    const first = map.get(block);
    const step = first >= entrySlot ? 1 : 0;
    let at = block + 1;
    while (at < end) {
      if (at % blocksPerPage === 0 && first === entryNone && map.page(at / blocksPerPage) === undefined) {
        at += blocksPerPage;
        continue;
      }
      if (map.get(at) !== first + step * (at - block)) break;
      at++;
    }
    return Math.min(at, end);
  }

  /** Reads blocks that were alike when the caller looked; looks again when they changed under the read. */
  async #readRun(target: Uint8Array, offsetBytes: number, first: number, end: number): Promise<void> {
    const entry = this.#map.get(first);
    if (entry === entryNone) return this.#below.read(target, offsetBytes);
    if (entry === entryZero) {
      target.fill(0);
      return;
    }
    await this.#scratch.readSlots(entry - entrySlot, offsetBytes - first * blockBytes, target);
    // A slot that was freed meanwhile may hold another block's bytes by now.
    for (let block = first; block < end; block++) {
      if (this.#map.get(block) !== entry + block - first) return this.read(target, offsetBytes);
    }
  }

  async #change(offsetBytes: number, lengthBytes: number, change: () => Promise<void>): Promise<void> {
    const first = Math.floor(offsetBytes / blockBytes);
    const release = await this.#lock.acquire(first, Math.ceil((offsetBytes + lengthBytes) / blockBytes));
    try {
      await change();
    } catch (error) {
      throw nbdError(error);
    } finally {
      release();
    }
  }

  async #write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    const start = Math.floor(offsetBytes / blockBytes) * blockBytes;
    const end = Math.ceil((offsetBytes + bytes.length) / blockBytes) * blockBytes;
    if (start === offsetBytes && end === offsetBytes + bytes.length)
      return this.#writeBlocks(start / blockBytes, bytes);
    const whole = Buffer.alloc(end - start);
    // Copy-on-write fill: what the guest did not write of the first and last block.
    await this.#fill(whole.subarray(0, blockBytes), start);
    if (end - start > blockBytes) await this.#fill(whole.subarray(whole.length - blockBytes), end - blockBytes);
    whole.set(bytes, offsetBytes - start);
    return this.#writeBlocks(start / blockBytes, whole);
  }

  #fill(target: Uint8Array, offsetBytes: number): Promise<void> {
    return this.read(target.subarray(0, Math.min(target.length, this.sizeBytes - offsetBytes)), offsetBytes);
  }

  /** Whole blocks: in place where the scratch has them (plain), else to new slots that are mapped once written. */
  async #writeBlocks(first: number, bytes: Uint8Array): Promise<void> {
    const end = first + bytes.length / blockBytes;
    const slice = (from: number, to: number): Uint8Array =>
      bytes.subarray((from - first) * blockBytes, (to - first) * blockBytes);
    if (this.#scratch.encrypted && (await this.#writeElsewhere(first, end, slice))) return;
    for (let block = first; block < end;) {
      const entry = this.#map.get(block);
      if (entry >= entrySlot) {
        const runEnd = this.#runEnd(block, end);
        await this.#scratch.writeSlots(entry - entrySlot, [slice(block, runEnd)]);
        block = runEnd;
      } else {
        let runEnd = block + 1;
        while (runEnd < end && this.#map.get(runEnd) < entrySlot) runEnd++;
        const runs = await this.#scratch.allocate(this.index, block, runEnd - block);
        await this.#writeNew(block, runs, slice);
        block = runEnd;
      }
    }
  }

  /** An encrypted block torn inside a sector would be garbage: it goes to new slots even when mapped, if there is room. */
  async #writeElsewhere(first: number, end: number, slice: (from: number, to: number) => Uint8Array): Promise<boolean> {
    let runs: SlotRun[];
    try {
      runs = await this.#scratch.allocate(this.index, first, end - first);
    } catch (error) {
      if (isTidemarkError(error, 'scratch-full')) return false;
      throw error;
    }
    await this.#writeNew(first, runs, slice);
    return true;
  }

  async #writeNew(
    first: number,
    runs: readonly SlotRun[],
    slice: (from: number, to: number) => Uint8Array,
  ): Promise<void> {
    let block = first;
    for (const [index, run] of runs.entries()) {
      try {
        await this.#scratch.writeSlots(run.firstSlot, [slice(block, block + run.count)]);
      } catch (error) {
        for (const unused of runs.slice(index)) this.#scratch.giveBack(unused);
        throw error;
      }
      this.#scratch.mapSlots(this.index, block, run);
      block += run.count;
    }
  }

  async #zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    const endBytes = offsetBytes + lengthBytes;
    // Behind the end of the disk there is nothing to keep: a short last block counts as whole.
    const first = Math.ceil(offsetBytes / blockBytes);
    const end = endBytes === this.sizeBytes ? Math.ceil(endBytes / blockBytes) : Math.floor(endBytes / blockBytes);
    if (first >= end) return this.#write(offsetBytes, Buffer.alloc(lengthBytes));
    const head = first * blockBytes - offsetBytes;
    const tail = endBytes - end * blockBytes;
    if (head > 0) await this.#write(offsetBytes, Buffer.alloc(head));
    await this.#scratch.mapZeros(this.index, first, end - first);
    if (tail > 0) await this.#write(end * blockBytes, Buffer.alloc(tail));
  }
}

/** A full scratch or file system pauses the VM (ENOSPC with werror=stop); everything else is EIO. */
function nbdError(error: unknown): Error {
  if (error instanceof NbdError) return error;
  if (!(error instanceof TidemarkError)) return error as Error;
  const full = isTidemarkError(error, 'scratch-full') || isTidemarkError(error, 'storage-full');
  const failure = new NbdError(full ? 'ENOSPC' : 'EIO', error.message);
  failure.cause = error;
  return failure;
}
