/** Starts worker threads, inside the single executable and outside of it. See scripts/lib/bundle.ts for the names. */
import { join } from 'node:path';
import { getAsset, isSea } from 'node:sea';
import { Worker } from 'node:worker_threads';
import { invariant } from './invariant.js';

/** `name` is `x.worker.cjs` for the entry `x.worker.ts`: an asset of the executable, or a file in TIDEMARK_WORKER_DIR. */
export function startWorker(name: string, workerData: unknown): Worker {
  if (isSea()) return new Worker(getAsset(name, 'utf8'), { eval: true, workerData, name });
  const directory = process.env['TIDEMARK_WORKER_DIR'];
  invariant(
    directory !== undefined,
    'TIDEMARK_WORKER_DIR is not set; start through scripts/run-ts.ts or the executable',
  );
  return new Worker(join(directory, name), { workerData, name });
}
