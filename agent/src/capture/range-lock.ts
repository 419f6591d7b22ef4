/** Serialises overlapping writes of one disk, first come first served; others pass. */
interface Held {
  readonly offsetBytes: number;
  readonly endBytes: number;
  readonly start: (() => void) | undefined;
}

export class RangeLock {
  private held: Held[] = [];
  private waiting: Held[] = [];

  /** Resolves with the release function when nothing earlier overlaps; at once (not a promise) when that is so now. */
  acquire(offsetBytes: number, lengthBytes: number): (() => void) | Promise<() => void> {
    const endBytes = offsetBytes + lengthBytes;
    const range: Held = { offsetBytes, endBytes, start: undefined };
    if (!this.held.some((other) => overlaps(other, range)) && !this.waiting.some((other) => overlaps(other, range)))
      return this.take(range);
    return new Promise((resolve) => {
      const waiter: Held = { offsetBytes, endBytes, start: () => resolve(this.take(waiter)) };
      this.waiting.push(waiter);
    });
  }

  private take(range: Held): () => void {
    this.held.push(range);
    return () => {
      this.held = this.held.filter((other) => other !== range);
      this.wake();
    };
  }

  private wake(): void {
    const still: Held[] = [];
    const waiting = this.waiting;
    this.waiting = still;
    for (const waiter of waiting) {
      if (this.held.some((other) => overlaps(other, waiter)) || still.some((other) => overlaps(other, waiter)))
        still.push(waiter);
      else waiter.start?.();
    }
  }
}

function overlaps(a: Held, b: Held): boolean {
  return a.offsetBytes < b.endBytes && b.offsetBytes < a.endBytes;
}
