/** The image of one disk at the target: checked reads, first-sync data, windows of promotion. Rules in REPLICA.md. */
import { Mutex } from '../core/mutex.js';
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { applyWindow, type ApplyResult } from './apply.js';
import { chunkBytes, chunkDigest, damagedDigest, digestsEqual } from './digest.js';
import { mismatch, type DigestFile } from './digest-file.js';
import { chunksPerPage, type DigestPage } from './digest-page.js';
import { digestBytes } from '../stream/messages.js';
import type { SectorFile } from './sector-file.js';
import { chunkParts, ChunkWindow } from './window.js';

export interface ReplicaDiskOptions {
  readonly index: number;
  readonly name: string;
  readonly path: string;
  readonly data: SectorFile;
  readonly digests: DigestFile;
  readonly clock: Clock;
  readonly verifyIntervalMs: number;
  /** A read found the chunk damaged; it is refused from now on. */
  readonly onDamaged: (chunk: number) => void;
}

/** 64 KiB buffers that checks borrow; more in use are allocated and dropped. */
const buffersMax = 64;
const buffers: Buffer[] = [];

export class ReplicaDisk {
  readonly index: number;
  readonly name: string;
  readonly path: string;
  /** Set by `resize` only. */
  sizeBytes: number;
  readonly #data: SectorFile;
  readonly #digests: DigestFile;
  readonly #clock: Clock;
  readonly #verifyIntervalMs: number;
  readonly #onDamaged: (chunk: number) => void;
  readonly #writer = new Mutex();
  #base = new ChunkWindow();
  /** A window of base data was lost since the last `flushBase`, which must therefore refuse. */
  #baseFailure: Error | undefined;

  constructor(options: ReplicaDiskOptions, sizeBytes: number) {
    this.index = options.index;
    this.name = options.name;
    this.path = options.path;
    this.sizeBytes = sizeBytes;
    this.#data = options.data;
    this.#digests = options.digests;
    this.#clock = options.clock;
    this.#verifyIntervalMs = options.verifyIntervalMs;
    this.#onDamaged = options.onDamaged;
  }

  get chunkCount(): number {
    return Math.ceil(this.sizeBytes / chunkBytes);
  }

  /** Fills `target`; every touched chunk was checked within the interval. Throws `replica-mismatch`, `storage-io`. */
  read(target: Uint8Array, offsetBytes: number): Promise<void> {
    const skip = offsetBytes % chunkBytes;
    const first = (offsetBytes - skip) / chunkBytes;
    if (skip + target.length <= chunkBytes) return this.#readPart(target, first, skip);
    return this.#readParts(target, offsetBytes);
  }

  /**
   * First-sync bytes: gathered, written when a window (16 MiB) is full. They are durable after the next `flushBase`,
   * which the caller awaits before it acknowledges them; after a throw or crash the source sends them again.
   */
  async applyBase(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    for (const part of chunkParts(offsetBytes, bytes.length)) {
      const { chunk, start, lengthBytes, skipBytes } = part;
      this.#base.place(chunk, start, lengthBytes).set(bytes.subarray(skipBytes, skipBytes + lengthBytes));
      if (this.#base.isFull) await this.#applyBaseWindow();
    }
  }

  /** Makes all base bytes handed over before the call durable, digests included. */
  async flushBase(): Promise<void> {
    await this.#applyBaseWindow().catch(() => undefined);
    const failure = this.#baseFailure;
    this.#baseFailure = undefined;
    if (failure !== undefined) throw failure;
    await this.settle();
  }

  /** Applies one window of a promotion; its bytes are durable when it resolves, its digests after `settle`. */
  apply(window: ChunkWindow): Promise<ApplyResult> {
    window.extendTail(this.sizeBytes);
    return this.#writer.run(() => applyWindow(this.#data, this.#digests, window));
  }

  /** The image holds these bytes at the chunk already, durably: its digest says so with the next `settle`. */
  adopt(chunk: number, bytes: Uint8Array): Promise<void> {
    return this.#writer.run(async () => {
      const whole = bytes.length === chunkBytes ? bytes : Buffer.concat([bytes], chunkBytes);
      const page = await this.#digests.pin(chunk);
      page.setDigest(chunk % chunksPerPage, chunkDigest(whole));
      this.#digests.markDirty(page);
      page.pinCount--;
    });
  }

  settle(): Promise<void> {
    return this.#writer.run(() => this.#digests.settle());
  }

  /**
   * Digests of chunks, 16 bytes each, as a source would give them (a short last chunk is hashed as it is). A chunk left
   * unsettled by a crash is hashed anew and takes that digest.
   */
  digestsOf(firstChunk: number, count: number): Promise<Uint8Array> {
    return this.#writer.run(async () => {
      const result = new Uint8Array(count * digestBytes);
      for (let i = 0; i < count; i++) result.set(await this.#digestOf(firstChunk + i), i * digestBytes);
      return result;
    });
  }

  /** Checks one chunk against its digest now; false (and refused from now on) when it does not match. */
  async check(chunk: number): Promise<boolean> {
    const page = await this.#digests.page(chunk);
    const at = chunk % chunksPerPage;
    if (page.isZero(at) || page.isUnsettled(at)) return true;
    page.clearVerified(at);
    try {
      await this.#readPart(new Uint8Array(0), chunk, 0);
      return true;
    } catch (error) {
      if (error instanceof TidemarkError && error.code === 'replica-mismatch') return false;
      throw error;
    }
  }

  /** Bytes from `offsetBytes` (at most `lengthBytes`) that are all in zero chunks, or all in others. */
  async run(offsetBytes: number, lengthBytes: number): Promise<{ lengthBytes: number; zero: boolean }> {
    let zero: boolean | undefined;
    let done = 0;
    for (const part of chunkParts(offsetBytes, lengthBytes)) {
      const found = this.#digests.page(part.chunk);
      const page = found instanceof Promise ? await found : found;
      const isZero = page.isZero(part.chunk % chunksPerPage);
      if (zero !== undefined && isZero !== zero) break;
      zero = isZero;
      done += part.lengthBytes;
    }
    return { lengthBytes: done, zero: zero ?? false };
  }

  /** Used by `Replica.resize` after the header is durable. */
  grown(sizeBytes: number): void {
    this.sizeBytes = sizeBytes;
  }

  get data(): SectorFile {
    return this.#data;
  }

  get digests(): DigestFile {
    return this.#digests;
  }

  async #applyBaseWindow(): Promise<void> {
    const window = this.#base;
    if (window.chunks.size === 0) return this.#writer.run(() => Promise.resolve());
    this.#base = new ChunkWindow();
    try {
      await this.apply(window);
    } catch (error) {
      this.#baseFailure = error as Error;
      throw error;
    }
  }

  async #readParts(target: Uint8Array, offsetBytes: number): Promise<void> {
    const reads: Promise<void>[] = [];
    for (const { chunk, start, lengthBytes, skipBytes } of chunkParts(offsetBytes, target.length)) {
      reads.push(this.#readPart(target.subarray(skipBytes, skipBytes + lengthBytes), chunk, start));
    }
    for (const result of await Promise.allSettled(reads)) if (result.status === 'rejected') throw result.reason;
  }

  async #readPart(target: Uint8Array, chunk: number, skip: number): Promise<void> {
    const at = chunk % chunksPerPage;
    let suspect = false;
    for (;;) {
      const found = this.#digests.page(chunk);
      const page = found instanceof Promise ? await found : found;
      if (page.isZero(at)) {
        target.fill(0);
        return;
      }
      if (page.isDamaged(at)) throw mismatch(this.path, this.index, chunk);
      const nowMs = this.#clock.monotonicMs();
      if (page.isUnsettled(at) || page.isVerified(at, nowMs, this.#verifyIntervalMs)) {
        return this.#data.read(target, chunk * chunkBytes + skip);
      }
      const expected = Buffer.from(page.digest(at));
      if (await this.#verifiedRead(target, chunk, skip, expected)) {
        if (stillSame(page, at, expected)) page.setVerified(at, nowMs, this.#verifyIntervalMs);
        return;
      }
      const again = await this.#digests.page(chunk);
      // A promotion changed the chunk under the read: what it says now counts.
      if (!stillSame(again, at, expected)) continue;
      if (suspect) {
        this.#refuse(again, at);
        this.#onDamaged(chunk);
        throw mismatch(this.path, this.index, chunk);
      }
      suspect = true;
    }
  }

  async #verifiedRead(target: Uint8Array, chunk: number, skip: number, expected: Uint8Array): Promise<boolean> {
    const whole = buffers.pop() ?? Buffer.allocUnsafeSlow(chunkBytes);
    try {
      await this.#data.read(whole, chunk * chunkBytes);
      if (!digestsEqual(chunkDigest(whole), expected)) return false;
      target.set(whole.subarray(skip, skip + target.length));
      return true;
    } finally {
      if (buffers.length < buffersMax) buffers.push(whole);
    }
  }

  /** Remembers the damage, durably with the next sync: a delta sync then sees a digest that equals no source's. */
  #refuse(page: DigestPage, at: number): void {
    page.setDigest(at, damagedDigest);
    this.#digests.markDirty(page);
  }

  async #digestOf(chunk: number): Promise<Uint8Array> {
    const page = await this.#digests.pin(chunk);
    try {
      const at = chunk % chunksPerPage;
      const short = this.sizeBytes - chunk * chunkBytes;
      if (page.isDamaged(at) || page.isZero(at)) return Buffer.from(page.digest(at));
      if (page.isUnsettled(at)) {
        const whole = Buffer.allocUnsafe(chunkBytes);
        await this.#data.read(whole, chunk * chunkBytes);
        page.setDigest(at, chunkDigest(whole));
        page.setUnsettled(at, false);
        this.#digests.markDirty(page);
      }
      if (short >= chunkBytes) return Buffer.from(page.digest(at));
      const last = Buffer.alloc(short);
      await this.#readPart(last, chunk, 0);
      return chunkDigest(last);
    } finally {
      page.pinCount--;
    }
  }
}

function stillSame(page: DigestPage, at: number, digest: Uint8Array): boolean {
  return !page.isUnsettled(at) && digestsEqual(page.digest(at), digest);
}
