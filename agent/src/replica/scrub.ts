/** A walk over all chunks of a replica that checks each against its digest, in bounded steps; the caller paces it. */
import type { Clock } from '../core/clock.js';
import { isTidemarkError } from '../core/errors.js';
import { chunkBytes } from './digest.js';
import type { Replica } from './replica.js';

/** Chunks looked at by one call (zero chunks cost no I/O). */
const stepChunksMax = 4096;

/** The next chunk to be checked. */
export interface ScrubPosition {
  readonly disk: number;
  readonly chunk: number;
}

export interface ScrubFinding {
  readonly disk: number;
  readonly chunk: number;
  /** The disk gave an error instead of bytes: nothing is known of them, so they are not refused. */
  readonly unreadable: boolean;
}

export interface ScrubStep {
  readonly checkedBytes: number;
  readonly findings: readonly ScrubFinding[];
  /** The last chunk of the last disk was done; the next call starts again. */
  readonly passDone: boolean;
}

export class Scrubber {
  #disk: number;
  #chunk: number;

  /** `position`: left out, or of a disk that is gone: goes on with what follows it. */
  constructor(
    private readonly replica: Replica,
    private readonly clock: Clock,
    position: ScrubPosition = { disk: -1, chunk: 0 },
  ) {
    this.#disk = position.disk;
    this.#chunk = position.chunk;
  }

  get position(): ScrubPosition {
    return { disk: this.#disk, chunk: this.#chunk };
  }

  /** Ends after `bytesMax`, or when `spentMsMax` have passed. Damaged chunks are refused from then on, durably. */
  async step(bytesMax: number, spentMsMax: number): Promise<ScrubStep> {
    const startMs = this.clock.monotonicMs();
    const findings: ScrubFinding[] = [];
    let checkedBytes = 0;
    let passDone = false;
    for (let looked = 0; looked < stepChunksMax && checkedBytes < bytesMax; looked++) {
      if (this.clock.monotonicMs() - startMs > spentMsMax) break;
      if (!this.#next()) {
        passDone = true;
        break;
      }
      const disk = this.replica.disk(this.#disk);
      const chunk = this.#chunk++;
      const { zero } = await disk.run(chunk * chunkBytes, 1);
      if (zero) continue;
      checkedBytes += chunkBytes;
      const state = await disk.check(chunk).catch(unreadable);
      if (state !== true) findings.push({ disk: this.#disk, chunk, unreadable: state === 'unreadable' });
    }
    for (const index of new Set(findings.map(({ disk }) => disk))) await this.replica.disk(index).settle();
    return { checkedBytes, findings, passDone };
  }

  /** Moves to a disk that has the next chunk; false at the end of the pass. */
  #next(): boolean {
    const indexes = this.replica.diskIndexes;
    const here = indexes.includes(this.#disk) ? this.replica.disk(this.#disk) : undefined;
    if (here !== undefined && this.#chunk < here.chunkCount) return true;
    const following = indexes.find((index) => index > this.#disk);
    this.#disk = following ?? -1;
    this.#chunk = 0;
    return following !== undefined;
  }
}

function unreadable(error: unknown): 'unreadable' {
  if (isTidemarkError(error, 'storage-io')) return 'unreadable';
  throw error;
}
