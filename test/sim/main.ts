/**
 * The simulation's command line.
 *
 * `--seeds N [--first F]`: N seeds in as many processes as there are processors, then every planted bug, each of which
 * must be caught. `--seed S [--log]`: replays one. `--plant BUG`: with a bug planted. Closing lines: `sim: …`, `planted: …`.
 */
import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { plant, plantedBugs, type PlantedBug } from '../../agent/src/core/planted.js';
import { counterNames, type CounterName, type SeedResult } from './cluster-view.js';
import { runSeed } from './run-seed.js';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '100' },
    first: { type: 'string', default: '1' },
    seed: { type: 'string' },
    plant: { type: 'string' },
    /** Seeds that a planted bug may take to be caught; 0 leaves the planted bugs out. */
    planted: { type: 'string', default: '300' },
    log: { type: 'boolean', default: false },
    worker: { type: 'boolean', default: false },
  },
});

/** A batch of ten seeds must show each of these at least once, or the seeds do not try what they claim to. */
const required: readonly CounterName[] = [
  'promotions',
  'compactions',
  'pinnedViews',
  'syncs',
  'folds',
  'failovers',
  'rollbacks',
  'disksAdded',
  'disksGrown',
  'disksRemoved',
  'oldDiskSets',
  'disksSeeded',
  'scrubPasses',
];
const batchSeeds = 10;

type Report = Omit<SeedResult, 'log'>;

async function runHere(seed: number): Promise<SeedResult> {
  let rejected: unknown;
  const onRejection = (reason: unknown): void => {
    rejected ??= reason;
  };
  process.on('unhandledRejection', onRejection);
  const result = await runSeed(seed);
  await new Promise((resolve) => setImmediate(resolve));
  process.off('unhandledRejection', onRejection);
  if (rejected === undefined || result.failure !== undefined) return result;
  const text = rejected instanceof Error ? (rejected.stack ?? rejected.message) : JSON.stringify(rejected);
  return { ...result, failure: `unhandled rejection: ${text}` };
}

/** Runs seeds in processes; `onReport` returns true to stop early. */
async function runInProcesses(
  seeds: readonly number[],
  bug: PlantedBug | undefined,
  onReport: (report: Report) => boolean,
): Promise<void> {
  const queue = [...seeds];
  let stopped = false;
  const worker = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const args = ['--worker', ...(bug === undefined ? [] : ['--plant', bug])];
      const child = fork(process.argv[1] as string, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
      const next = (): void => {
        const seed = stopped ? undefined : queue.shift();
        if (seed === undefined) child.disconnect();
        else child.send(seed);
      };
      child.on('message', (report: Report) => {
        if (onReport(report)) stopped = true;
        next();
      });
      child.on('error', reject);
      child.on('exit', (code) =>
        code === 0 ? resolve() : reject(new Error(`a simulation process ended with ${code}`)),
      );
      next();
    });
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), seeds.length) }, worker));
}

async function runSeeds(first: number, count: number): Promise<boolean> {
  const reports = new Map<number, Report>();
  const startedMs = performance.now();
  await runInProcesses(
    Array.from({ length: count }, (_, index) => first + index),
    values.plant as PlantedBug | undefined,
    (report) => {
      reports.set(report.seed, report);
      if (report.failure !== undefined)
        console.log(`seed ${report.seed} FAILED (make sim SEED=${report.seed}): ${report.failure}`);
      if (reports.size % 100 === 0)
        console.log(`${reports.size} of ${count} seeds, ${((performance.now() - startedMs) / 1000).toFixed(0)} s`);
      return false;
    },
  );
  const all = [...reports.values()].sort((a, b) => a.seed - b.seed);
  let failed = all.filter(({ failure }) => failure !== undefined).length;
  for (let from = 0; from + batchSeeds <= all.length; from += batchSeeds) {
    const batch = all.slice(from, from + batchSeeds);
    for (const name of required) {
      if (batch.some((report) => report.counts[name] > 0)) continue;
      console.log(`seeds ${batch[0]?.seed}…${batch.at(-1)?.seed} FAILED: not one of ${name}`);
      failed++;
    }
  }
  console.log(
    counterNames.map((name) => `${name} ${all.reduce((sum, report) => sum + report.counts[name], 0)}`).join(', '),
  );
  console.log(`sim: ${all.length - Math.min(failed, all.length)} passed, ${failed} failed`);
  return failed === 0 && all.length === count;
}

/** Each planted bug must make some seed fail: else the silence of the others proves nothing. */
async function runPlanted(seedCountMax: number): Promise<boolean> {
  let caught = 0;
  for (const bug of plantedBugs) {
    let by: Report | undefined;
    let tried = 0;
    await runInProcesses(
      Array.from({ length: seedCountMax }, (_, index) => index + 1),
      bug,
      (report) => {
        tried++;
        if (report.failure !== undefined) by ??= report;
        return by !== undefined;
      },
    );
    if (by !== undefined) caught++;
    const how =
      by === undefined
        ? `NOT CAUGHT in ${tried} seeds`
        : `caught by seed ${by.seed}: ${by.failure?.split('\n')[0]?.slice(0, 110)}`;
    console.log(`planted ${bug}: ${how}`);
  }
  console.log(`planted: ${caught} passed, ${plantedBugs.length - caught} failed`);
  return caught === plantedBugs.length;
}

function serve(): void {
  process.on('message', (seed: number) => {
    void runHere(seed).then(({ log: _log, ...report }) => process.send?.(report));
  });
  process.on('disconnect', () => process.exit(0));
}

async function replay(seed: number): Promise<boolean> {
  const result = await runHere(seed);
  if (values.log) console.log(result.log.join('\n'));
  console.log(JSON.stringify(result.counts));
  console.log(`seed ${seed}, ${(result.virtualMs / 1000).toFixed(0)} virtual seconds: ${result.failure ?? 'ok'}`);
  return result.failure === undefined;
}

async function main(): Promise<void> {
  if (values.plant !== undefined) plant(values.plant as PlantedBug);
  if (values.worker) {
    serve();
    return;
  }
  let good: boolean;
  if (values.seed !== undefined) good = await replay(Number(values.seed));
  else {
    good = await runSeeds(Number(values.first), Number(values.seeds));
    if (Number(values.planted) > 0) good = (await runPlanted(Number(values.planted))) && good;
  }
  process.exitCode = good ? 0 : 1;
}

void main();
