/** Writes to an NBD export, without a pause unless told, and notes how long the slowest write took, also one that never ended. */
import { setTimeout as sleep } from 'node:timers/promises';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';

export interface WriterOptions {
  readonly writeBytes: number;
  readonly depth: number;
}

export class SteadyWriter {
  #client: NbdClient;
  #stopping = false;
  #pauseMs = 0;
  #slowestMs = 0;
  #count = 0;
  readonly #underWay = new Set<{ readonly sinceMs: number }>();
  readonly #loops: Promise<void>[];

  private constructor(client: NbdClient, options: WriterOptions) {
    this.#client = client;
    this.#loops = Array.from({ length: options.depth }, (_, index) => this.#write(index, options));
  }

  static async start(uri: string, options: WriterOptions): Promise<SteadyWriter> {
    return new SteadyWriter(await NbdClient.open(uri, { clock: nodeClock, requestMs: 60_000 }), options);
  }

  get count(): number {
    return this.#count;
  }

  /** Of all since the start or the last {@link reset}, those under way included. */
  get slowestMs(): number {
    const nowMs = performance.now();
    return Math.max(this.#slowestMs, ...[...this.#underWay].map(({ sinceMs }) => nowMs - sinceMs));
  }

  reset(): void {
    this.#slowestMs = 0;
  }

  /** From now on it waits so long after each write: a guest that leaves time for a sync. */
  ease(pauseMs: number): void {
    this.#pauseMs = pauseMs;
  }

  /** Resolves when the last write was answered; rejects when one failed. */
  async stop(): Promise<void> {
    this.#stopping = true;
    try {
      await Promise.all(this.#loops);
    } finally {
      await this.#client.close();
    }
  }

  async #write(index: number, { writeBytes, depth }: WriterOptions): Promise<void> {
    const bytes = Buffer.allocUnsafe(writeBytes);
    const places = Math.floor(this.#client.info.sizeBytes / writeBytes / depth);
    for (let round = 0; !this.#stopping; round++) {
      bytes.fill((round * 31 + index) & 0xff);
      const write = { sinceMs: performance.now() };
      this.#underWay.add(write);
      await this.#client.write(bytes, (index + depth * (round % places)) * writeBytes);
      this.#underWay.delete(write);
      this.#slowestMs = Math.max(this.#slowestMs, performance.now() - write.sinceMs);
      this.#count++;
      if (this.#pauseMs > 0) await sleep(this.#pauseMs);
    }
  }
}
