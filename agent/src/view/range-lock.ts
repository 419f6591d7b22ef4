/** Serialises overlapping changes of a disk; disjoint ones run together. */
interface Held {
  readonly first: number;
  readonly end: number;
  readonly done: Promise<void>;
  readonly finish: () => void;
}

export class RangeLock {
  /** As many as the server has requests in flight, which is bounded there. */
  readonly #held = new Set<Held>();

  /** Waits for every overlapping change that came before; call the result when done. */
  async acquire(first: number, end: number): Promise<() => void> {
    const before = [...this.#held].filter((held) => held.first < end && first < held.end).map((held) => held.done);
    const { promise, resolve } = Promise.withResolvers<void>();
    const mine: Held = { first, end, done: promise, finish: resolve };
    this.#held.add(mine);
    if (before.length > 0) await Promise.all(before);
    return () => {
      this.#held.delete(mine);
      mine.finish();
    };
  }
}
