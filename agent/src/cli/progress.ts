/** Progress of something long: a bar that is rewritten on a terminal, a plain line now and then elsewhere. On stderr. */
import type { Progress } from '../service/operation-schemas.js';
import { columnCount, formatBytes, formatSeconds, oneLine } from './format.js';
import type { Terminal } from './terminal.js';

/** Nothing is shown of what ends before. */
export const quietMs = 2_000;
const terminalMs = 200;
const plainMs = 10_000;
const barColumnCount = 24;

export class ProgressLine {
  readonly #terminal: Terminal;
  readonly #startedMs: number;
  #shownMs = -Infinity;
  #shown = false;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    this.#startedMs = terminal.nowMs();
  }

  update(label: string, progress: Progress | null): void {
    const now = this.#terminal.nowMs();
    if (now - this.#startedMs < quietMs || now - this.#shownMs < (this.#terminal.isTerminal ? terminalMs : plainMs))
      return;
    this.#shownMs = now;
    const line = renderProgress(label, progress, now - this.#startedMs);
    if (!this.#terminal.isTerminal) this.#terminal.err(`${line}\n`);
    else this.#terminal.err(`\r\x1b[K${line}`);
    this.#shown = true;
  }

  /** Clears the bar. */
  end(): void {
    if (this.#shown && this.#terminal.isTerminal) this.#terminal.err('\r\x1b[K');
    this.#shown = false;
  }
}

export function renderProgress(label: string, progress: Progress | null, elapsedMs: number): string {
  if (progress === null || progress.totalBytes === 0)
    return `${oneLine(label)}  ${formatSeconds(elapsedMs / 1000)}`.slice(0, columnCount - 1);
  const share = Math.min(1, progress.doneBytes / progress.totalBytes);
  const full = Math.floor(share * barColumnCount);
  const bar = `${'█'.repeat(full)}${'░'.repeat(barColumnCount - full)}`;
  const left = progress.secondsLeft === null ? '' : `  ${formatSeconds(progress.secondsLeft)} left`;
  const tail = `${bar} ${(share * 100).toFixed(0).padStart(3)} %  ${formatBytes(progress.bytesPerSecond)}/s${left}`;
  return `${oneLine(label).slice(0, Math.max(0, columnCount - 3 - tail.length))}  ${tail}`;
}
