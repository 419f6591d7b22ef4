/** One seed: a world, its faults, and the oracle's verdict. */
import { isTidemarkError } from '../../agent/src/core/errors.js';
import { Cluster } from './cluster.js';
import type { SeedResult } from './cluster-view.js';

/** Never throws: what goes wrong is in `failure`. */
export async function runSeed(seed: number): Promise<SeedResult> {
  const cluster = new Cluster(seed);
  try {
    await cluster.live();
    await cluster.settle();
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const code = isTidemarkError(error) ? ` (${error.code})` : '';
    return cluster.result(`${text}${code}`);
  }
  return cluster.result(undefined);
}
