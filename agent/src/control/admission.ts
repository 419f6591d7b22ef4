/** How many requests are answered at once: of all callers, and of one. */
import { TidemarkError } from '../core/errors.js';

export class Admission {
  readonly #countMax: number;
  readonly #callerCountMax: number;
  readonly #counts = new Map<string, number>();
  #count = 0;

  constructor(countMax: number, callerCountMax: number) {
    this.#countMax = countMax;
    this.#callerCountMax = callerCountMax;
  }

  /** Lets one request of the caller in; call what is returned once when it was answered. Throws `overloaded`. */
  enter(caller: string): () => void {
    const own = this.#counts.get(caller) ?? 0;
    if (own >= this.#callerCountMax)
      throw new TidemarkError('overloaded', `${own} requests of ${caller} are being answered already`);
    if (this.#count >= this.#countMax)
      throw new TidemarkError('overloaded', `${this.#count} requests are being answered already`);
    this.#count++;
    this.#counts.set(caller, own + 1);
    return () => {
      this.#count--;
      const left = this.#counts.get(caller)! - 1;
      if (left === 0) this.#counts.delete(caller);
      else this.#counts.set(caller, left);
    };
  }
}
