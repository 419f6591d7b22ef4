/** The demo's book: what each step cost in time and in transactions. */
import { formatSeconds } from '../../agent/src/cli/format.js';

export interface Entry {
  readonly step: string;
  /** Between the checkpoint taken and the moment of the loss. Null: the step recovers nothing. */
  readonly rpoSeconds: number | null;
  /** From the source stopped, or given up, to the start of the first VM. */
  readonly bootMs: number | null;
  /** Waited for the source to stop before that. */
  readonly sourceMs: number | null;
  /** From the request until a transaction is committed again. */
  readonly answersMs: number | null;
  /** Before the step, as the client's own disk says. */
  readonly acknowledged: number;
  /** Of these, in the database behind the step. */
  readonly kept: number;
  /** What was acknowledged before the checkpoint must never be among what is lost; only a loss of the source loses later ones. */
  readonly lostOfCheckpoint: number;
  readonly mayLoseLater: boolean;
}

/** Null: no time to tell. */
function time(ms: number | null): string {
  return ms === null ? '-' : formatSeconds(ms / 1000);
}

/** Was anything lost that must not be? */
export function isWrong({ acknowledged, kept, lostOfCheckpoint, mayLoseLater }: Entry): boolean {
  return lostOfCheckpoint > 0 || acknowledged === 0 || (!mayLoseLater && kept < acknowledged);
}

const headers = ['STEP', 'RPO', 'RTO', 'SOURCE', 'ANSWERS', 'ACKED', 'KEPT', 'LOST'];
const widths = [20, 7, 7, 7, 10, 6, 6, 6];

/** One line an entry, at most 80 columns. */
export function ledgerLines(entries: readonly Entry[]): { readonly text: string; readonly wrong: boolean }[] {
  const line = (cells: readonly string[]): string =>
    cells.map((cell, at) => (at === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[at]! + 1))).join('');
  const rows = entries.map((entry) => ({
    text: line([
      entry.step,
      entry.rpoSeconds === null ? '-' : formatSeconds(entry.rpoSeconds),
      time(entry.bootMs),
      time(entry.sourceMs),
      time(entry.answersMs),
      String(entry.acknowledged),
      String(entry.kept),
      String(entry.acknowledged - entry.kept),
    ]),
    wrong: isWrong(entry),
  }));
  return [{ text: line(headers), wrong: false }, ...rows];
}
