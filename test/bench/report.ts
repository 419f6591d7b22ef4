/** What a benchmark says: goals with what was measured, tables, and notes. Becomes BENCHMARKS.md and dist/bench.json. */
import { format } from 'prettier';
import type { Machine } from './machine.js';
import { number, spread, type Series } from './statistics.js';

export interface Goal {
  readonly name: string;
  readonly measured: Series;
  readonly bound: number;
  readonly direction: 'at least' | 'at most';
  readonly unit?: string;
  /** Why this run does not count although a number came out. */
  readonly invalid?: string | undefined;
  /** What probably binds when the goal is missed. */
  readonly hint?: string;
}

export interface Table {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export interface Section {
  readonly title: string;
  readonly goals: readonly Goal[];
  readonly tables: readonly Table[];
  readonly notes: readonly string[];
}

export interface Report {
  readonly startedAt: string;
  readonly minutes: number;
  readonly mode: 'full' | 'quick';
  readonly machine: Machine;
  readonly sections: readonly Section[];
  /** Sections that ended with an error. */
  readonly failures: readonly { readonly section: string; readonly error: string }[];
}

export const lineColumnsMax = 100;

export function verdict(goal: Goal): string {
  if (goal.invalid !== undefined) return 'does not count';
  const { median } = goal.measured;
  if (!Number.isFinite(median)) return 'not measured';
  const met = goal.direction === 'at least' ? median >= goal.bound : median <= goal.bound;
  const share = Math.abs(median - goal.bound) / goal.bound;
  return met ? 'met' : share < 2 ? `missed ${number(share * 100)} %` : `missed ${number(share + 1)} ×`;
}

export function isMet(goal: Goal): boolean {
  return verdict(goal) === 'met';
}

export function goalLine(goal: Goal): string {
  const unit = goal.unit === undefined ? '' : ` ${goal.unit}`;
  const why = goal.invalid === undefined ? '' : ` (${goal.invalid})`;
  return `${goal.name}: ${spread(goal.measured)}${unit}, ${goal.direction} ${number(goal.bound)}${unit}: ${verdict(goal)}${why}`;
}

export async function toMarkdown(report: Report): Promise<string> {
  const { machine } = report;
  const parts = [
    '# Benchmarks',
    `Written by \`make bench\` (${report.mode} run, ${number(report.minutes)} minutes) on ${report.startedAt}.`,
    `${machine.processor}, ${machine.coreCount} cores, ${number(machine.memoryBytes / 1024 ** 3)} GiB, ` +
      `Linux ${machine.kernel}, ${machine.fileSystem}, Node ${machine.node}, commit ${machine.commit}. ` +
      `Load before the start: ${number(machine.loadAverage)}.`,
    'Contenders alternate in every round of one run. Values are median (min…max) over the rounds; ratios are taken ' +
      'round by round. The machine is shared and noisy: compare ratios, not absolutes.' +
      (report.mode === 'quick'
        ? ' **This is a quick run: it shows that everything works, its numbers mean little.**'
        : ''),
    '## Goals',
    markdownTable(
      ['goal', 'bound', 'measured', 'verdict'],
      report.sections
        .flatMap(({ goals }) => goals)
        .map((goal) => [
          goal.name,
          `${goal.direction === 'at least' ? '≥' : '≤'} ${number(goal.bound)}${goal.unit === undefined ? '' : ` ${goal.unit}`}`,
          spread(goal.measured),
          verdict(goal),
        ]),
    ),
  ];
  for (const { section, error } of report.failures)
    parts.push(`**${section} did not run to its end:** ${error.split('\n')[0]}`);
  for (const section of report.sections) {
    parts.push(`## ${section.title}`);
    for (const table of section.tables) parts.push(`### ${table.title}`, markdownTable(table.head, table.rows));
    const hints = section.goals
      .filter((goal) => !isMet(goal))
      .map((goal) => `- **${goal.name}**: ${[goal.invalid ?? verdict(goal), goal.hint].filter(Boolean).join('. ')}`);
    const list = [...hints, ...section.notes.map((note) => `- ${note}`)];
    if (list.length > 0) parts.push(list.join('\n'));
  }
  return format(parts.join('\n\n'), { parser: 'markdown', printWidth: lineColumnsMax, proseWrap: 'always' });
}

export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
