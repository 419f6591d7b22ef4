/** Source time: the wall clock when the agent started, carried on by the monotonic clock; never goes back. */
import type { Clock } from '../core/clock.js';

export class SourceTime {
  private readonly clock: Clock;
  private readonly startMonotonicMs: number;
  private startMs: number;
  private lastMs = 0;

  constructor(clock: Clock) {
    this.clock = clock;
    this.startMonotonicMs = clock.monotonicMs();
    this.startMs = clock.wallMs();
  }

  /** Milliseconds since the Unix epoch. */
  nowMs(): number {
    const nowMs = this.startMs + this.clock.monotonicMs() - this.startMonotonicMs;
    if (nowMs > this.lastMs) this.lastMs = nowMs;
    return this.lastMs;
  }

  /** From now on no time before `floorMs` is given. */
  raise(floorMs: number): void {
    const missingMs = floorMs - this.nowMs();
    if (missingMs > 0) this.startMs += missingMs;
  }
}
