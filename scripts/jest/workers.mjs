/** Before any test: bundles the agent's worker threads, once a run. */
import { bundleWorkers, root, workerDir } from '../lib/bundle.ts';

export default async function setup() {
  process.env.TIDEMARK_ROOT = root;
  process.env.TIDEMARK_WORKER_DIR = workerDir;
  await bundleWorkers();
}
