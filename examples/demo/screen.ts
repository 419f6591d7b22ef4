/** What the demo prints: lines that stay, and under them one that changes. Without a terminal it is a plain line now and then. */
import pc from 'picocolors';
import { renderProgress } from '../../agent/src/cli/progress.js';
import type { Progress } from '../../agent/src/service/operation-schemas.js';

const columnCount = 79;
const plainEveryMs = 10_000;
const drawMs = 200;
const quietMs = 1000;

export const colours = pc.createColors(process.stdout.isTTY === true && process.env['NO_COLOR'] === undefined);

/** Tells how far it is: bytes, when it can, and the step it is at. */
export type Report = (progress: Progress | null, step?: string) => void;

export class Screen {
  #text = '';
  #plainMs = 0;
  #ended = false;
  readonly #terminal = process.stdout.isTTY === true;

  /** A line that stays. */
  say(text = ''): void {
    if (this.#ended) return;
    this.clear();
    process.stdout.write(`${text}\n`);
    this.#plainMs = performance.now();
  }

  /** What a person would type. */
  command(text: string): void {
    for (const line of wrap(text, columnCount - 5))
      this.say(`   ${colours.bold(`${line.isFirst ? '$ ' : '    '}${line.text}`)}`);
  }

  /** What the command answers. */
  quote(text: string): void {
    for (const line of wrap(text, columnCount - 8))
      this.say(colours.dim(`     ${line.isFirst ? '' : '    '}${line.text}`));
  }

  /** The last line; nothing is shown after it. */
  end(text: string): void {
    this.say(text);
    this.#ended = true;
  }

  /** The line that changes. */
  show(text: string): void {
    if (this.#ended) return;
    this.#text = `    ${text}`.slice(0, columnCount);
    if (this.#terminal) process.stdout.write(`\r\x1b[K${this.#text}`);
    else if (performance.now() - this.#plainMs > plainEveryMs) this.say(this.#text);
  }

  clear(): void {
    if (this.#terminal && this.#text !== '') process.stdout.write('\r\x1b[K');
    this.#text = '';
  }

  /** Shows how far `work` is: a bar when it tells bytes, else the time that it takes and what `beside` says. */
  async during<Value>(
    label: string,
    work: (report: Report) => Promise<Value>,
    beside: () => string = () => '',
  ): Promise<Value> {
    const startedMs = performance.now();
    let progress: Progress | null = null;
    let step = '';
    const draw = (): void => {
      const elapsedMs = performance.now() - startedMs;
      if (elapsedMs < quietMs) return;
      const text = renderProgress(step === '' ? label : `${label}: ${step}`, progress, elapsedMs);
      this.show(progress === null ? `${text}   ${beside()}` : text);
    };
    const timer = setInterval(draw, drawMs);
    try {
      return await work((next, at = step) => {
        progress = next === null || next.totalBytes === 0 ? null : next;
        step = at;
      });
    } finally {
      clearInterval(timer);
      this.clear();
    }
  }
}

/** Progress of what only tells bytes: rate and time left from its beginning. */
export function progressOf(doneBytes: number, totalBytes: number, startedMs: number): Progress {
  const bytesPerSecond = (doneBytes * 1000) / Math.max(1, performance.now() - startedMs);
  const secondsLeft = bytesPerSecond > 0 ? (totalBytes - doneBytes) / bytesPerSecond : null;
  return { doneBytes, totalBytes, bytesPerSecond, secondsLeft };
}

/** Broken at spaces; its own indent stays. */
function wrap(text: string, width: number): { readonly text: string; readonly isFirst: boolean }[] {
  const lines: string[] = [];
  let rest = text.trimEnd();
  while (rest.length > width) {
    const space = rest.lastIndexOf(' ', width);
    const at = space > width / 2 ? space : width;
    lines.push(rest.slice(0, at));
    rest = rest.slice(at).trimStart();
  }
  return [...lines, rest].map((line, index) => ({ text: line, isFirst: index === 0 }));
}
