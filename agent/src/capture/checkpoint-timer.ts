/**
 * Fires on a fixed grid, so that a late mark does not move the next; tells how late each was. Under load the event loop
 * comes to its timers late: `poll`, called with every captured write, fires as soon as it is due.
 */
import type { Clock, Timer } from '../core/clock.js';

export const checkpointIntervalMsMin = 1000;

export class CheckpointTimer {
  private readonly clock: Clock;
  private readonly fire: (dueMs: number) => void;
  private readonly intervalMs: number;
  private dueMs: number;
  private timer: Timer;

  /** `fire` gets the moment (monotonic) at which it was due. */
  constructor(clock: Clock, intervalMs: number, fire: (dueMs: number) => void) {
    this.clock = clock;
    this.fire = fire;
    this.intervalMs = Math.max(checkpointIntervalMsMin, intervalMs);
    this.dueMs = clock.monotonicMs() + this.intervalMs;
    this.timer = this.arm();
  }

  stop(): void {
    this.timer.cancel();
  }

  /** Fires when it is due. */
  poll(nowMs: number): void {
    if (nowMs < this.dueMs) return;
    const { dueMs } = this;
    // After a long pause the missed ones are not made up for.
    while (this.dueMs <= nowMs) this.dueMs += this.intervalMs;
    this.timer.cancel();
    this.timer = this.arm();
    this.fire(dueMs);
  }

  private arm(): Timer {
    const { clock } = this;
    // It may come a moment too early, by rounding: without another nobody would look before the next write.
    return clock.after(Math.max(0, this.dueMs - clock.monotonicMs()), () =>
      this.poll(Math.max(this.dueMs, clock.monotonicMs())),
    );
  }
}
