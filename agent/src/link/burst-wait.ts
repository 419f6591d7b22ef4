/**
 * Lets a burst of writes have the processor: while guests write fast and little of the buffer is used, sending waits a
 * bounded time. Once that time is over everything is sent, burst or not, until the queue was empty.
 */
import type { Clock } from '../core/clock.js';
import type { LinkBounds } from './environment.js';
import type { RecordQueue } from './record-queue.js';

/** The rate is measured over so long; also how long one wait lasts. */
const sampleMs = 10;

export class BurstWait {
  private sampledMs = -Infinity;
  private sampledBytes = 0;
  private fast = false;
  private sinceMs: number | undefined;

  constructor(
    private readonly queue: RecordQueue,
    private readonly bounds: LinkBounds,
    private readonly clock: Clock,
  ) {}

  /** Milliseconds to wait before sending; 0: send now. */
  waitMs(): number {
    const { queue, bounds, clock } = this;
    if (bounds.burstMsMax === 0) return 0;
    const nowMs = clock.monotonicMs();
    if (nowMs - this.sampledMs >= sampleMs) this.sample(nowMs);
    if (!this.fast || queue.memoryBytes > bounds.bufferBytes / 2) return 0;
    this.sinceMs ??= nowMs;
    return nowMs - this.sinceMs < bounds.burstMsMax ? sampleMs : 0;
  }

  /** Everything was sent: the next burst may wait again. */
  rest(): void {
    this.sinceMs = undefined;
  }

  private sample(nowMs: number): void {
    const { guestBytes } = this.queue;
    const rate = ((guestBytes - this.sampledBytes) * 1000) / (nowMs - this.sampledMs);
    this.fast = rate > this.bounds.burstBytesPerSecond;
    this.sampledMs = nowMs;
    this.sampledBytes = guestBytes;
  }
}
