/**
 * The memory of write payloads: slabs of one size, filled front to back, shared by all connections of a server and
 * bounded in bytes. A payload is a view onto its slab; a slab is free again when the last payload in it is released.
 *
 * `limitBytes` counts every slab that exists, used or kept for use. A payload longer than a slab gets one of its own.
 * When nothing is free the pool calls `onPressure` (the owner frees memory: the next retreat), the allocation fails, and
 * who needed it waits by `onFree`. So the bound holds whatever clients do; what a full pool costs is time.
 */
import { invariant } from '../core/invariant.js';
import type { Payload } from './payload.js';
import { payloadBytesMax } from './protocol.js';

class Slab {
  readonly memory: Buffer;
  readonly pool: SlabPool;
  readonly jumbo: boolean;
  /** Payloads in it that are not released. */
  payloads = 0;
  usedBytes = 0;

  constructor(pool: SlabPool, lengthBytes: number, jumbo: boolean) {
    this.memory = Buffer.allocUnsafeSlow(lengthBytes);
    this.pool = pool;
    this.jumbo = jumbo;
  }
}

/** Born with one reference, its creator's. */
export class SlabPayload implements Payload {
  readonly bytes: Buffer;
  readonly #slab: Slab;
  #references = 1;

  /** Use {@link SlabPool.allocate}. */
  constructor(slab: Slab, bytes: Buffer) {
    this.#slab = slab;
    this.bytes = bytes;
    slab.payloads++;
  }

  retain(): void {
    invariant(this.#references > 0, 'slab: payload retained after its release');
    this.#references++;
  }

  release(): void {
    invariant(this.#references > 0, 'slab: payload released too often');
    if (--this.#references > 0) return;
    const slab = this.#slab;
    if (--slab.payloads === 0) slab.pool.slabEmptied(slab);
  }
}

export interface SlabPoolOptions {
  /** Bytes of all slabs together; at least one slab and the largest payload. */
  readonly limitBytes: number;
  /** Bytes of one slab. Default 4 MiB. */
  readonly slabBytes?: number;
  /** Called when an allocation of this many bytes finds nothing free. May release payloads before it returns. */
  readonly onPressure?: (neededBytes: number) => void;
}

export interface SlabPoolStatus {
  readonly limitBytes: number;
  /** Slabs that exist, in bytes. */
  readonly allocatedBytes: number;
  /** Of these, held by at least one payload or being filled. */
  readonly heldBytes: number;
  /** Allocations that found nothing free, since the start. */
  readonly pressureCount: number;
  /** Connections that wait for memory at this moment. */
  readonly waitingCount: number;
}

export class SlabPool {
  readonly slabBytes: number;
  readonly #limitBytes: number;
  #onPressure: ((neededBytes: number) => void) | undefined;
  readonly #free: Slab[] = [];
  #current: Slab | undefined;
  #allocatedBytes = 0;
  #pressureCount = 0;
  #waiting = new Set<() => void>();
  #wakeScheduled = false;

  constructor(options: SlabPoolOptions) {
    this.slabBytes = options.slabBytes ?? 4 * 1024 * 1024;
    this.#limitBytes = options.limitBytes;
    this.#onPressure = options.onPressure;
    invariant(
      this.#limitBytes >= payloadBytesMax + this.slabBytes,
      `slab: limitBytes must be at least ${String(payloadBytesMax + this.slabBytes)}`,
    );
  }

  /** Sets the owner's way to free memory, when it is made after the pool. */
  set onPressure(handler: (neededBytes: number) => void) {
    this.#onPressure = handler;
  }

  /** A payload of `lengthBytes` (1 … 32 MiB) with undefined content, or undefined when nothing is free. */
  allocate(lengthBytes: number): SlabPayload | undefined {
    invariant(lengthBytes > 0 && lengthBytes <= payloadBytesMax, 'slab: payload length out of bounds');
    const payload = this.#tryAllocate(lengthBytes);
    if (payload !== undefined) return payload;
    this.#pressureCount++;
    this.#onPressure?.(lengthBytes);
    return this.#tryAllocate(lengthBytes);
  }

  /** Calls `resume` once, in a later turn, when memory came free. Cancel by {@link cancelWait}. */
  onFree(resume: () => void): void {
    this.#waiting.add(resume);
  }

  cancelWait(resume: () => void): void {
    this.#waiting.delete(resume);
  }

  status(): SlabPoolStatus {
    const current = this.#current;
    const idleBytes = current?.payloads === 0 ? current.memory.length : 0;
    return {
      limitBytes: this.#limitBytes,
      allocatedBytes: this.#allocatedBytes,
      heldBytes: this.#allocatedBytes - this.#free.length * this.slabBytes - idleBytes,
      pressureCount: this.#pressureCount,
      waitingCount: this.#waiting.size,
    };
  }

  /** For payloads only: the last one in `slab` was released. */
  slabEmptied(slab: Slab): void {
    if (slab === this.#current) {
      // Filled again from its start while it is still in the processor's cache.
      slab.usedBytes = 0;
    } else if (slab.jumbo) {
      this.#allocatedBytes -= slab.memory.length;
    } else {
      slab.usedBytes = 0;
      this.#free.push(slab);
    }
    if (this.#waiting.size > 0) this.#scheduleWake();
  }

  #tryAllocate(lengthBytes: number): SlabPayload | undefined {
    let slab = this.#current;
    if (slab === undefined || slab.usedBytes + lengthBytes > slab.memory.length) {
      slab = lengthBytes > this.slabBytes ? this.#makeSlab(lengthBytes, true) : this.#nextSlab();
      if (slab === undefined) return undefined;
    }
    const start = slab.usedBytes;
    slab.usedBytes = start + lengthBytes;
    return new SlabPayload(slab, slab.memory.subarray(start, start + lengthBytes));
  }

  #nextSlab(): Slab | undefined {
    const next = this.#free.pop() ?? this.#makeSlab(this.slabBytes, false);
    if (next === undefined) return undefined;
    this.#current = next;
    return next;
  }

  #makeSlab(lengthBytes: number, jumbo: boolean): Slab | undefined {
    while (this.#allocatedBytes + lengthBytes > this.#limitBytes) {
      let spare = this.#free.pop();
      if (spare === undefined && this.#current?.payloads === 0) {
        spare = this.#current;
        this.#current = undefined;
      }
      if (spare === undefined) return undefined;
      this.#allocatedBytes -= spare.memory.length;
    }
    this.#allocatedBytes += lengthBytes;
    return new Slab(this, lengthBytes, jumbo);
  }

  #scheduleWake(): void {
    if (this.#wakeScheduled) return;
    this.#wakeScheduled = true;
    setImmediate(() => {
      this.#wakeScheduled = false;
      const waiting = this.#waiting;
      this.#waiting = new Set();
      for (const resume of waiting) resume();
    });
  }
}
