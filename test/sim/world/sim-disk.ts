/**
 * A host's disk with time and faults. A request takes effect in one instant between its call and its completion, drawn
 * from the seed; the buffers of a write must stay unchanged until then, as with a real kernel. What a request touches
 * is in the cache of the machine: it survives the death of a process and is decided over when the machine loses power.
 */
import { TidemarkError, type ErrorCode } from '../../../agent/src/core/errors.js';
import type { SimRandom } from './sim-random.js';
import type { SimScheduler } from './sim-scheduler.js';
import { SimDirectory } from './sim-directory.js';
import { SimTree } from './sim-tree.js';

export type IoKind =
  | 'open'
  | 'close'
  | 'read'
  | 'write'
  | 'datasync'
  | 'truncate'
  | 'stat'
  | 'list'
  | 'rename'
  | 'remove'
  | 'makeDirectory'
  | 'syncDirectory';

export interface IoRequest<T> {
  readonly kind: IoKind;
  readonly path: string;
  readonly bytes: number;
  /** Takes effect; returns the result or throws the error of the caller. */
  readonly effect: () => T;
  /** What is left behind when it fails or its process dies; nothing when absent. */
  readonly partialEffect?: (() => void) | undefined;
}

/** One failure of a coming request. */
export interface DiskFault {
  readonly kind: IoKind;
  /** Default: any path. */
  readonly matches?: (path: string) => boolean;
  /** Requests of this kind and path that still succeed first. Default 0. */
  readonly skipCount?: number;
  /** Default `storage-io`. */
  readonly code?: ErrorCode;
}

export interface DiskTimes {
  /** Least latency by kind; the mean is about twice that and one in a hundred takes twenty times as long. */
  readonly latencyMs: Readonly<Partial<Record<IoKind, number>>>;
  readonly latencyMsOther: number;
  readonly bytesPerMs: number;
}

export const diskTimesDefault: DiskTimes = {
  latencyMs: { read: 0.05, write: 0.02, datasync: 0.4, syncDirectory: 0.4, makeDirectory: 0.8 },
  latencyMsOther: 0.02,
  bytesPerMs: 200_000,
};

/** The part of a process that the disk must know. */
export interface IoOwner {
  readonly alive: boolean;
}

interface InFlight {
  readonly owner: IoOwner;
  readonly request: IoRequest<unknown>;
  readonly finish: () => void;
}

export class SimDisk {
  readonly tree = new SimTree();
  readonly random: SimRandom;
  readonly #scheduler: SimScheduler;
  readonly #times: DiskTimes;
  readonly #inFlight = new Set<InFlight>();
  readonly #held: InFlight[] = [];
  #faults: { fault: DiskFault; skipCount: number }[] = [];
  #hung = false;
  #ioCount = 0;
  /** Factor on every latency; 1 is healthy. */
  slowdown = 1;
  /** Probability that a read, write or datasync fails with `storage-io`. */
  errorChance: Partial<Record<IoKind, number>> = {};
  /** Called after the effect of each request and before its caller hears of it: where a crash hurts most. */
  onIo: ((kind: IoKind, path: string) => void) | undefined;

  constructor(scheduler: SimScheduler, random: SimRandom, times: DiskTimes = diskTimesDefault) {
    this.#scheduler = scheduler;
    this.random = random;
    this.#times = times;
  }

  /** Requests that took effect since the beginning. */
  get ioCount(): number {
    return this.#ioCount;
  }

  set capacityBytes(bytes: number) {
    this.tree.capacityBytes = bytes;
  }

  /** For SimStorage. Never settles for a process that is dead by then. */
  submit<T>(owner: IoOwner, request: IoRequest<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (!owner.alive) return;
      const finish = (): void => this.#finish(owner, request, resolve, reject);
      const entry = { owner, request, finish };
      this.#inFlight.add(entry);
      this.#scheduler.after(this.#latencyMs(request), () => this.#due(entry));
    });
  }

  /** Fails one coming request. */
  failNext(fault: DiskFault): void {
    this.#faults.push({ fault, skipCount: fault.skipCount ?? 0 });
  }

  /** Forgets the failures that have not happened yet. */
  clearFaults(): void {
    this.#faults = [];
    this.errorChance = {};
  }

  /** From now on nothing completes. */
  hang(): void {
    this.#hung = true;
  }

  /** Completes what was held by {@link hang}. */
  unhang(): void {
    this.#hung = false;
    for (const entry of this.#held.splice(0)) this.#scheduler.after(this.random.float(), () => this.#due(entry));
  }

  /** The process died: each of its requests under way took effect, partly or not at all, and is never heard of again. */
  abandon(owner: IoOwner): void {
    for (const entry of this.#inFlight) {
      if (entry.owner !== owner) continue;
      this.#inFlight.delete(entry);
      const luck = this.random.int(3);
      if (luck === 1) entry.request.partialEffect?.();
      if (luck !== 2 || entry.request.kind === 'datasync') continue;
      try {
        entry.request.effect();
      } catch (error) {
        if (!(error instanceof TidemarkError)) throw error;
      }
    }
  }

  /** The machine lost power; call {@link abandon} for its process first. */
  crash(): void {
    this.tree.crash(this.random);
    this.#hung = false;
    this.#held.length = 0;
  }

  /** Turns one bit at rest. Throws when the file is not there or not that long. */
  flipBit(path: string, offsetBytes: number, bit: number): void {
    const node = this.tree.find(path);
    if (node === undefined || node instanceof SimDirectory || offsetBytes >= node.lengthBytes) {
      throw new RangeError(`${path} has no byte ${offsetBytes}`);
    }
    node.flipBit(offsetBytes, bit);
  }

  /** Turns a random bit of a random file that matches and is not empty; tells which, undefined when there is none. */
  flipRandomBit(matches: (path: string) => boolean): { path: string; offsetBytes: number } | undefined {
    const paths = this.tree.paths().filter((path) => matches(path) && this.peek(path).length > 0);
    if (paths.length === 0) return undefined;
    const path = this.random.pick(paths);
    const offsetBytes = this.random.int(this.peek(path).length);
    this.flipBit(path, offsetBytes, this.random.int(8));
    return { path, offsetBytes };
  }

  /** What a read of the whole file would give now, without any I/O. */
  peek(path: string): Uint8Array {
    const node = this.tree.find(path);
    if (node === undefined || node instanceof SimDirectory) throw new RangeError(`${path} is no file`);
    const bytes = new Uint8Array(node.lengthBytes);
    node.read(bytes, 0);
    return bytes;
  }

  #due(entry: InFlight): void {
    if (!this.#inFlight.has(entry)) return;
    if (this.#hung) this.#held.push(entry);
    else {
      this.#inFlight.delete(entry);
      entry.finish();
    }
  }

  #finish<T>(owner: IoOwner, request: IoRequest<T>, resolve: (value: T) => void, reject: (error: Error) => void): void {
    let settle: () => void;
    try {
      const code = this.#faultOf(request);
      if (code !== undefined) {
        request.partialEffect?.();
        throw new TidemarkError(code, `simulated: ${request.kind} of ${request.path} failed`, { path: request.path });
      }
      const value = request.effect();
      settle = () => resolve(value);
    } catch (error) {
      settle = () => reject(error as Error);
    }
    this.#ioCount += 1;
    this.onIo?.(request.kind, request.path);
    if (owner.alive) settle();
  }

  #faultOf(request: IoRequest<unknown>): ErrorCode | undefined {
    const chance = this.errorChance[request.kind];
    if (chance !== undefined && this.random.chance(chance)) return 'storage-io';
    for (const [index, entry] of this.#faults.entries()) {
      const { fault } = entry;
      if (fault.kind !== request.kind || fault.matches?.(request.path) === false) continue;
      if (entry.skipCount-- > 0) continue;
      this.#faults.splice(index, 1);
      return fault.code ?? 'storage-io';
    }
    return undefined;
  }

  #latencyMs({ kind, bytes }: IoRequest<unknown>): number {
    const draw = this.random.float();
    const spread = draw < 0.01 ? 20 : 1 + 2 * draw;
    const { latencyMs, latencyMsOther, bytesPerMs } = this.#times;
    return this.slowdown * ((latencyMs[kind] ?? latencyMsOther) * spread + bytes / bytesPerMs);
  }
}
