/**
 * Virtual time: runs the next event, then everything that the promises it settled lead to, then the next event. Code
 * under simulation may use promises only (no timers, I/O, threads of node), else runs are not repeatable.
 */
import { EventQueue, type SimEvent } from './event-queue.js';

export interface RunOptions {
  /** Asked between events; true stops the run. */
  readonly until?: () => boolean;
  /** Virtual time at which the run stops. */
  readonly untilMs?: number;
  /** Safety net against an endless simulation: one event more throws. Default 20 million. */
  readonly eventCountMax?: number;
}

/** Why a run stopped: `until` was true, `untilMs` came, or nothing was left to happen. */
export type RunEnd = 'until' | 'time' | 'idle';

/** Between so many batches of events node gets a turn (test time-outs, unhandled rejections). */
const batchesPerTurn = 512;

export class SimScheduler {
  readonly #queue = new EventQueue();
  #nowMs = 0;
  #serial = 0;
  #eventCount = 0;
  #fingerprint = 0;
  #running = false;

  get nowMs(): number {
    return this.#nowMs;
  }

  get eventCount(): number {
    return this.#eventCount;
  }

  /** Depends on when every event so far happened: equal in two runs of a seed, or they were not the same run. */
  get fingerprint(): number {
    return this.#fingerprint;
  }

  /** Runs `run` after `delayMs` (>= 0) of virtual time, never inside the caller. */
  after(delayMs: number, run: () => void): SimEvent {
    if (!(delayMs >= 0)) throw new RangeError(`a delay of ${delayMs} ms`);
    const event = { timeMs: this.#nowMs + delayMs, serial: this.#serial++, run };
    this.#queue.push(event);
    return event;
  }

  async run(options: RunOptions = {}): Promise<RunEnd> {
    if (this.#running) throw new Error('the simulation already runs');
    this.#running = true;
    try {
      return await this.#run(options);
    } finally {
      this.#running = false;
    }
  }

  async #run({ until, untilMs = Infinity, eventCountMax = 20_000_000 }: RunOptions): Promise<RunEnd> {
    await Promise.resolve(); // `settled` is right only when called from a microtask
    for (let batch = 1; ; batch++) {
      if (batch % batchesPerTurn === 0) await new Promise((resolve) => setImmediate(resolve));
      await settled();
      if (until?.() === true) return 'until';
      const next = this.#queue.peek();
      if (next === undefined) return 'idle';
      if (next.timeMs > untilMs) {
        this.#nowMs = untilMs;
        return 'time';
      }
      this.#runBatch(next.timeMs);
      if (this.#eventCount > eventCountMax) throw new Error(`no end after ${eventCountMax} events`);
    }
  }

  /** Events of one moment that were already scheduled run together; what they add to the same moment comes after. */
  #runBatch(timeMs: number): void {
    this.#nowMs = timeMs;
    const serialEnd = this.#serial;
    for (let next = this.#queue.peek(); next !== undefined; next = this.#queue.peek()) {
      if (next.timeMs !== timeMs || next.serial >= serialEnd) return;
      this.#queue.pop();
      if (next.run === undefined) continue;
      this.#eventCount += 1;
      this.#fingerprint = (Math.imul(this.#fingerprint, 31) + Math.imul(timeMs * 4096, 0x9e3779b1) + next.serial) | 0;
      next.run();
    }
  }
}

/** Resolves when no promise reaction is pending: node runs a tick only once the microtask queue is empty (0.3 µs). */
function settled(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}
