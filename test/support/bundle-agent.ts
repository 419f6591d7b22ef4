/** `node test/support/bundle-agent.ts FILE`: the agent as one ESM file with a source map, for profiling and debugging. */
import { join } from 'node:path';
import { bundleTool, bundleWorkers, root } from '../../scripts/lib/bundle.ts';

await Promise.all([bundleTool(join(root, 'agent', 'src', 'main.ts'), process.argv[2]!), bundleWorkers()]);
