/** The way from one host to another: latency, bandwidth shared by all its connections, and whether it is open. */
import type { SimRandom } from './sim-random.js';
import type { SimScheduler } from './sim-scheduler.js';

export interface LinkSpeed {
  /** One way. Default 1. */
  readonly latencyMs?: number;
  /** Most that a chunk may be later than the latency. Default 0.5. */
  readonly jitterMs?: number;
  /** Default 125 000 000 (1 Gbit/s). */
  readonly bytesPerSecond?: number;
}

export class SimLink {
  readonly #scheduler: SimScheduler;
  readonly #waiting: (() => void)[] = [];
  #freeAtMs = 0;
  #blocked = false;
  latencyMs = 1;
  jitterMs = 0.5;
  bytesPerSecond = 125_000_000;

  constructor(scheduler: SimScheduler) {
    this.#scheduler = scheduler;
  }

  get blocked(): boolean {
    return this.#blocked;
  }

  setSpeed(speed: LinkSpeed): void {
    Object.assign(this, speed);
  }

  /** Takes the wire for so many bytes; returns when they arrive. */
  transmit(bytes: number, random: SimRandom): number {
    const startMs = Math.max(this.#scheduler.nowMs, this.#freeAtMs);
    this.#freeAtMs = startMs + (bytes * 1000) / this.bytesPerSecond;
    return this.#freeAtMs + this.latencyMs + random.float() * this.jitterMs;
  }

  block(): void {
    this.#blocked = true;
  }

  /** Who waited goes on after one latency. */
  open(): void {
    this.#blocked = false;
    const waiting = this.#waiting.splice(0);
    for (const run of waiting) this.#scheduler.after(this.latencyMs, run);
  }

  whenOpen(run: () => void): void {
    this.#waiting.push(run);
  }
}
