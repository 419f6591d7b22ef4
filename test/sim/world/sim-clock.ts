/** The clocks of one process: virtual monotonic time, and a wall time that faults may move. */
import type { Clock, Timer } from '../../../agent/src/core/clock.js';
import type { SimScheduler } from './sim-scheduler.js';

/** 2024-01-01T00:00:00Z: the wall time of virtual time 0. */
export const wallStartMs = 1_704_067_200_000;

export interface SimClockOptions {
  /** Monotonic time of virtual time 0; differs between processes, so that nobody compares them. */
  readonly monotonicStartMs: number;
  /** Added to the wall time; read at every call. */
  readonly wallOffsetMs: () => number;
  /** False once the process is dead: its timers no longer fire. */
  readonly isAlive: () => boolean;
}

export class SimClock implements Clock {
  readonly #scheduler: SimScheduler;
  readonly #options: SimClockOptions;

  constructor(scheduler: SimScheduler, options: SimClockOptions) {
    this.#scheduler = scheduler;
    this.#options = options;
  }

  monotonicMs(): number {
    return this.#scheduler.nowMs + this.#options.monotonicStartMs;
  }

  wallMs(): number {
    return Math.floor(wallStartMs + this.#scheduler.nowMs + this.#options.wallOffsetMs());
  }

  after(delayMs: number, fire: () => void): Timer {
    const event = this.#scheduler.after(delayMs, () => {
      if (this.#options.isAlive()) fire();
    });
    return {
      cancel: () => {
        event.run = undefined;
      },
    };
  }
}
