/** The machine's clocks. */
import type { Clock, Timer } from '../core/clock.js';

/** Longest delay of one setTimeout (2^31 − 1 ms); longer ones are armed again. */
const timeoutMsMax = 2_147_483_647;

class NodeTimer implements Timer {
  readonly #dueMs: number;
  readonly #fire: () => void;
  #handle: NodeJS.Timeout;

  constructor(delayMs: number, fire: () => void) {
    this.#dueMs = performance.now() + delayMs;
    this.#fire = fire;
    this.#handle = this.#arm(delayMs);
  }

  cancel(): void {
    clearTimeout(this.#handle);
  }

  /** libuv counts from the start of its loop turn, so a timeout may come early: then the rest is waited for. */
  #arm(delayMs: number): NodeJS.Timeout {
    return setTimeout(
      () => {
        const leftMs = this.#dueMs - performance.now();
        if (leftMs > 0) this.#handle = this.#arm(leftMs);
        else this.#fire();
      },
      Math.min(delayMs, timeoutMsMax),
    );
  }
}

/** {@link Clock} over performance.now, Date.now and setTimeout. A pending timer keeps the process alive. */
export const nodeClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  after: (delayMs, fire) => new NodeTimer(delayMs, fire),
};
