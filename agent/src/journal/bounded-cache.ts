/** A least-recently-used cache bounded by the sum of its entries' costs. */
export class BoundedCache<K, V> {
  readonly #entries = new Map<K, { value: V; cost: number }>();
  #cost = 0;

  /** `onEvict` is told of each value that leaves. */
  constructor(
    readonly costMax: number,
    private readonly onEvict?: (value: V) => void,
  ) {}

  get(key: K): V | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.value;
  }

  set(key: K, value: V, cost: number): void {
    this.delete(key);
    if (cost > this.costMax) return;
    this.#entries.set(key, { value, cost });
    this.#cost += cost;
    for (const oldest of this.#entries.keys()) {
      if (this.#cost <= this.costMax) break;
      this.delete(oldest);
    }
  }

  delete(key: K): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#cost -= entry.cost;
    this.onEvict?.(entry.value);
  }

  clear(): void {
    for (const key of [...this.#entries.keys()]) this.delete(key);
  }
}
