/** A token bucket over the wire bytes of one or more links. */
import { sleep, type Clock } from '../core/clock.js';

/** Bytes a second at a wall-clock moment; undefined: no limit. A schedule by time windows is such a function. */
export type RateAt = (wallMs: number) => number | undefined;

/** Longest a rate is trusted before the schedule is asked again. */
const stepMsMax = 1000;

export class Throttle {
  private readonly clock: Clock;
  private rateAt: RateAt;
  private tokens = 0;
  private lastMs: number;

  constructor(clock: Clock, rateAt: RateAt = () => undefined) {
    this.clock = clock;
    this.rateAt = rateAt;
    this.lastMs = clock.monotonicMs();
  }

  /** Bytes a second now; undefined: no limit. */
  get bytesPerSecond(): number | undefined {
    return this.rateAt(this.clock.wallMs());
  }

  setRate(rateAt: RateAt): void {
    this.rateAt = rateAt;
  }

  /** Waits until the bytes may go; rejects when the signal aborts. At most a quarter second's worth is saved up. */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      const rate = this.bytesPerSecond;
      if (rate === undefined) return;
      const nowMs = this.clock.monotonicMs();
      this.tokens = Math.min(rate / 4, this.tokens + ((nowMs - this.lastMs) * rate) / 1000);
      this.lastMs = nowMs;
      if (this.tokens >= 0) {
        this.tokens -= bytes;
        return;
      }
      await sleep(this.clock, Math.max(1, Math.min(stepMsMax, (-this.tokens * 1000) / rate)), signal);
    }
  }
}
