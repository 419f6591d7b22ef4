/** The seeded generator (sfc32) that every choice of a simulation comes from. */
import type { Random } from '../../../agent/src/core/random.js';

export class SimRandom implements Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number) {
    this.#a = seed | 0;
    this.#b = (seed / 2 ** 32) | 0;
    this.#c = 0x9e3779b9;
    for (let round = 0; round < 16; round++) this.next();
  }

  /** Uniform unsigned 32 bits. */
  next(): number {
    const sum = (this.#a + this.#b + this.#counter++) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  float(): number {
    return this.next() / 2 ** 32;
  }

  bytes(count: number): Uint8Array {
    const words = new Uint32Array((count + 3) >>> 2);
    this.#fill(words);
    return new Uint8Array(words.buffer, 0, count);
  }

  /** Uniform integer in [0, bound). */
  int(bound: number): number {
    return Math.floor(this.float() * bound);
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    return low + this.float() * (high - low);
  }

  /** True with this probability. */
  chance(probability: number): boolean {
    return this.float() < probability;
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError('nothing to pick from');
    return items[this.int(items.length)] as T;
  }

  /** A generator of its own, so that draws of one part do not move those of another. */
  fork(): SimRandom {
    return new SimRandom(this.next() * 2 ** 21 + (this.next() >>> 11));
  }

  /** As many calls of `next`, with the state in local variables, for speed. */
  #fill(words: Uint32Array): void {
    let [a, b, c, counter] = [this.#a, this.#b, this.#c, this.#counter];
    for (let index = 0; index < words.length; index++) {
      const sum = (a + b + counter++) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + sum) | 0;
      words[index] = sum;
    }
    [this.#a, this.#b, this.#c, this.#counter] = [a, b, c, counter];
  }
}
