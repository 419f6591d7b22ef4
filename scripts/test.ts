/**
 * Everything that `make test` checks, one step after the other; a failed step does not hide the next ones.
 * Writes dist/test/result.json `{ passed, failed }`, which .ci/run reports. Tests count as passed; a failed test, and a
 * step that fails without naming a test, count as failed.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './lib/bundle.ts';

interface Count {
  passed: number;
  failed: number;
}

interface Step {
  name: string;
  command: string[];
  /** Counts the tests of the step from its output; a step without it only passes or fails. */
  count?: (output: string) => Count;
}

const { values: options } = parseArgs({ options: { seeds: { type: 'string', default: '1000' } } });
const resultDir = join(root, 'dist', 'test');
const jestResult = join(resultDir, 'jest.json');

const steps: Step[] = [
  { name: 'lint', command: ['node', '--run', 'lint'] },
  { name: 'types', command: ['node', '--run', 'typecheck'] },
  { name: 'agent', command: ['node', '--run', 'agent'] },
  { name: 'provider', command: ['node', 'scripts/build-provider.ts'] },
  {
    name: 'jest',
    command: ['node', '--run', 'jest', '--', '--json', `--outputFile=${jestResult}`],
    count: countJest,
  },
  { name: 'simulation', command: ['node', '--run', 'sim', '--', '--seeds', options.seeds], count: countLines },
];

rmSync(resultDir, { recursive: true, force: true });
mkdirSync(resultDir, { recursive: true });

const total: Count = { passed: 0, failed: 0 };
const summary: string[] = [];
for (const step of steps) {
  console.log(`\n── ${step.name}`);
  const startedMs = performance.now();
  const { ok, output } = await run(step.command);
  const count = step.count?.(output) ?? { passed: 0, failed: 0 };
  if (step.count && ok && count.passed === 0) console.error(`${step.name}: no test ran`);
  const broken = !ok || (step.count !== undefined && count.passed === 0);
  if (broken && count.failed === 0) count.failed = 1;
  total.passed += count.passed;
  total.failed += count.failed;
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  const tests = step.count ? `${count.passed} passed, ${count.failed} failed` : '';
  summary.push(
    `${count.failed > 0 ? 'FAILED' : 'ok    '}  ${step.name.padEnd(12)} ${seconds.padStart(7)} s  ${tests}`.trimEnd(),
  );
}

writeFileSync(join(resultDir, 'result.json'), JSON.stringify(total));
console.log(`\n${summary.join('\n')}\n\n${total.passed} passed, ${total.failed} failed`);
process.exit(total.failed > 0 ? 1 : 0);

/** Runs a command, showing what it prints and keeping it. */
function run([command, ...args]: string[]): Promise<{ ok: boolean; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command!, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      process.stdout.write(text);
      output = (output + text).slice(-1_000_000);
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ ok: code === 0, output }));
  });
}

/** Jest's own count; a test file that could not be loaded is one failure. */
function countJest(): Count {
  try {
    const result = JSON.parse(readFileSync(jestResult, 'utf8')) as Record<string, number>;
    return {
      passed: result['numPassedTests'] ?? 0,
      failed: (result['numFailedTests'] ?? 0) + (result['numRuntimeErrorTestSuites'] ?? 0),
    };
  } catch {
    return { passed: 0, failed: 1 };
  }
}

/** Sums every line `name: N passed, N failed`. */
function countLines(output: string): Count {
  const count: Count = { passed: 0, failed: 0 };
  for (const match of output.matchAll(/^[^\n:]+: (\d+) passed, (\d+) failed/gm)) {
    count.passed += Number(match[1]);
    count.failed += Number(match[2]);
  }
  return count;
}
