/** TypeScript to ESM for jest, by the same esbuild that bundles the agent. */
import { createHash } from 'node:crypto';
import { transformSync, version } from 'esbuild';

const options = { loader: 'ts', format: 'esm', target: 'node24', sourcemap: 'inline', sourcesContent: false };

export default {
  process: (text, path) => transformSync(text, { ...options, sourcefile: path }),
  getCacheKey: (text, path) =>
    createHash('sha256')
      .update(JSON.stringify([version, options, path, text]))
      .digest('hex'),
};
