/** Bytes a second over the last seconds. */
import type { Clock } from '../core/clock.js';

const halfLifeMs = 2000;

export class Rate {
  private readonly clock: Clock;
  private weighted = 0;
  private lastMs: number;

  constructor(clock: Clock) {
    this.clock = clock;
    this.lastMs = clock.monotonicMs();
  }

  add(bytes: number): void {
    this.decay();
    this.weighted += bytes;
  }

  get bytesPerSecond(): number {
    this.decay();
    return (this.weighted * Math.LN2 * 1000) / halfLifeMs;
  }

  private decay(): void {
    const nowMs = this.clock.monotonicMs();
    this.weighted *= 2 ** ((this.lastMs - nowMs) / halfLifeMs);
    this.lastMs = nowMs;
  }
}
