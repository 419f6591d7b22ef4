/**
 * `make bench`: speed and memory of the agents beside qemu-nbd and nbdkit on the same machine.
 * `-- --quick` is a smoke run (dist/bench-quick.md); `-- --only burst,views` runs some; a full run of all writes
 * BENCHMARKS.md. Exit code 1 when a benchmark did not run to its end; a missed goal is a result, not a failure.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { repositoryRoot } from '../support/paths.js';
import { amplification } from './amplification.js';
import { burst } from './burst.js';
import type { BenchContext, Benchmark } from './context.js';
import { hooks } from './hooks.js';
import { link } from './link.js';
import { describeMachine } from './machine.js';
import { marksSection, memorySection } from './memory.js';
import { mirror } from './mirror.js';
import { pulumi } from './pulumi.js';
import { fullPlan, quickPlan } from './plan.js';
import { goalLine, lineColumnsMax, toMarkdown, type Report, type Section } from './report.js';
import { reverse } from './reverse.js';
import { rto } from './rto.js';
import { sustained } from './sustained.js';
import { views } from './views.js';
import { vmCapture } from './vm-capture.js';

const benchmarks: readonly Benchmark[] = [
  burst,
  sustained,
  views,
  link,
  amplification,
  mirror,
  vmCapture,
  rto,
  hooks,
  reverse,
  pulumi,
];

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, only: { type: 'string' } },
});
const only = options.only?.split(',');
const unknown = only?.filter((name) => !benchmarks.some((each) => each.name === name)) ?? [];
if (unknown.length > 0) {
  console.error(
    `bench: no benchmark ${unknown.join(', ')}; there are ${benchmarks.map(({ name }) => name).join(', ')}`,
  );
  process.exit(2);
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

const startedMs = performance.now();
const say = (line: string): void =>
  console.log(`${((performance.now() - startedMs) / 1000).toFixed(0).padStart(5)} s  ${line}`);
const context: BenchContext = { plan: options.quick ? quickPlan : fullPlan, say, memory: [], marks: [] };
const machine = describeMachine(process.env['TIDEMARK_TMP'] ?? '/tmp');
const startedAt = new Date().toISOString().slice(0, 16).replace('T', ' ') + ' UTC';
const sections: Section[] = [];
const failures: { section: string; error: string }[] = [];

for (const benchmark of benchmarks) {
  if (only !== undefined && !only.includes(benchmark.name)) continue;
  say(`── ${benchmark.name}`);
  try {
    show(await benchmark.run(context));
  } catch (error) {
    const text = error instanceof Error ? `${error.message}${causeOf(error)}` : String(error);
    failures.push({ section: benchmark.name, error: text });
    say(`${benchmark.name} FAILED: ${text}`);
    if (error instanceof Error && error.stack !== undefined) console.error(error.stack);
  }
}
if (context.marks.length > 0) show(marksSection(context));
if (context.memory.length > 0) show(memorySection(context));

const report: Report = {
  startedAt,
  minutes: (performance.now() - startedMs) / 60_000,
  mode: options.quick ? 'quick' : 'full',
  machine,
  sections,
  failures,
};
const dist = join(repositoryRoot(), 'dist');
mkdirSync(dist, { recursive: true });
writeFileSync(join(dist, 'bench.json'), `${JSON.stringify(report, null, 2)}\n`);
const markdown = await toMarkdown(report);
const file = options.quick || only !== undefined ? join(dist, 'bench.md') : join(repositoryRoot(), 'BENCHMARKS.md');
writeFileSync(file, markdown);
const wide = markdown.split('\n').filter((line) => line.length > lineColumnsMax).length;
say(`wrote ${file} and dist/bench.json${wide > 0 ? ` (${wide} lines over ${lineColumnsMax} columns)` : ''}`);
process.exit(failures.length > 0 ? 1 : 0);

function show(section: Section): void {
  sections.push(section);
  for (const goal of section.goals) say(goalLine(goal));
}

function causeOf(error: Error): string {
  return error.cause instanceof Error ? ` (${error.cause.message})` : '';
}
