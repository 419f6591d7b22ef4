/** The live line under the steps: what the guest does, how far behind the target is. Plain lines without a terminal. */
import { formatBytes, formatSeconds } from '../../agent/src/cli/format.js';

const columnCount = 79;
const plainEveryMs = 3000;

export interface LiveSample {
  readonly writesPerSecond: number;
  readonly rpoSeconds: number | null;
  readonly journalBytes: number | null;
  readonly stage: string;
}

export class LiveLine {
  #text = '';
  #plainMs = 0;
  readonly #terminal = process.stdout.isTTY === true;

  /** A line that stays. */
  say(text = ''): void {
    this.clear();
    process.stdout.write(`${text}\n`);
    this.#plainMs = performance.now();
  }

  show({ writesPerSecond, rpoSeconds, journalBytes, stage }: LiveSample): void {
    const journal = journalBytes === null ? '-' : formatBytes(journalBytes);
    const rate = `${Math.round(writesPerSecond)} writes/s`.padEnd(14);
    this.#text = `    ${rate} RPO ${formatSeconds(rpoSeconds).padEnd(8)} journal ${journal.padEnd(9)} ${stage}`;
    this.#text = this.#text.slice(0, columnCount);
    if (this.#terminal) process.stdout.write(`\r\x1b[K${this.#text}`);
    else if (performance.now() - this.#plainMs > plainEveryMs) this.say(this.#text);
  }

  clear(): void {
    if (this.#terminal && this.#text !== '') process.stdout.write('\r\x1b[K');
    this.#text = '';
  }
}
