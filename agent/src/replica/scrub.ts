/** Paced check of every chunk of a replica against its digest; the caller calls `step` and waits what it says. */
import type { Clock } from '../core/clock.js';
import { chunkBytes } from './digest.js';
import type { Replica } from './replica.js';

/** Bytes checked by one call. */
const stepBytesMax = 4 * 1024 * 1024;
/** Chunks looked at by one call (zero chunks cost no I/O). */
const stepChunksMax = 4096;

export interface ScrubStep {
  readonly checkedBytes: number;
  readonly findings: readonly { readonly disk: number; readonly chunk: number }[];
  /** The last chunk of the last disk was done; the next call starts again. */
  readonly passDone: boolean;
  /** Wait this long before the next call to keep the pace. */
  readonly delayMs: number;
}

export class Scrubber {
  readonly #replica: Replica;
  readonly #clock: Clock;
  readonly #paceBytesPerSecond: number;
  #disk = -1;
  #chunk = 0;

  constructor(replica: Replica, clock: Clock, paceBytesPerSecond: number) {
    this.#replica = replica;
    this.#clock = clock;
    this.#paceBytesPerSecond = Math.max(chunkBytes, paceBytesPerSecond);
  }

  /** Bounded work. Damaged chunks are refused from then on; a delta sync repairs them. */
  async step(): Promise<ScrubStep> {
    const startMs = this.#clock.monotonicMs();
    const findings: { disk: number; chunk: number }[] = [];
    let checkedBytes = 0;
    let passDone = false;
    for (let looked = 0; looked < stepChunksMax && checkedBytes < stepBytesMax; looked++) {
      if (!this.#next()) {
        passDone = true;
        break;
      }
      const disk = this.#replica.disk(this.#disk);
      const chunk = this.#chunk++;
      const { zero } = await disk.run(chunk * chunkBytes, 1);
      if (zero) continue;
      checkedBytes += chunkBytes;
      if (!(await disk.check(chunk))) findings.push({ disk: this.#disk, chunk });
    }
    if (findings.length > 0)
      for (const index of new Set(findings.map((f) => f.disk))) await this.#replica.disk(index).settle();
    const spentMs = this.#clock.monotonicMs() - startMs;
    const delayMs = Math.max(0, (checkedBytes / this.#paceBytesPerSecond) * 1000 - spentMs);
    return { checkedBytes, findings, passDone, delayMs };
  }

  /** Moves to a disk that has the next chunk; false at the end of the pass. */
  #next(): boolean {
    const indexes = this.#replica.diskIndexes;
    const here = indexes.includes(this.#disk) ? this.#replica.disk(this.#disk) : undefined;
    if (here !== undefined && this.#chunk < here.chunkCount) return true;
    const following = indexes.find((index) => index > this.#disk);
    this.#disk = following ?? -1;
    this.#chunk = 0;
    return following !== undefined;
  }
}
