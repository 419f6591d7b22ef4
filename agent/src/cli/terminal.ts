/** Where the CLI writes and what it may know of its surroundings; tests give their own. */
import pc from 'picocolors';

export interface Terminal {
  out(text: string): void;
  err(text: string): void;
  /** Stderr is a terminal: progress lines may be rewritten. */
  readonly isTerminal: boolean;
  readonly colours: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Milliseconds since the Unix epoch. */
  nowMs(): number;
  /** Aborts on SIGINT: stops waiting, never the operation. */
  readonly signal: AbortSignal;
}

export type Colours = Pick<ReturnType<typeof pc.createColors>, 'bold' | 'dim' | 'red' | 'yellow' | 'green' | 'cyan'>;

export function coloursOf(terminal: Pick<Terminal, 'colours'>): Colours {
  return pc.createColors(terminal.colours);
}

/** The process's own. */
export function processTerminal(signal: AbortSignal): Terminal {
  const isTerminal = process.stderr.isTTY === true && process.env['TERM'] !== 'dumb';
  return {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    isTerminal,
    colours: process.stdout.isTTY === true && isTerminal && process.env['NO_COLOR'] === undefined,
    env: process.env,
    nowMs: () => Date.now(),
    signal,
  };
}
