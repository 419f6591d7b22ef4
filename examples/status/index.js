/**
 * What Pulumi starts. Bundles the program next to it first: TypeScript with ESM imports then runs on every Node that
 * Pulumi supports, with no loader.
 */
import { join } from 'node:path';
import { build } from 'esbuild';

const entry = join(import.meta.dirname, 'status.ts');
const outfile = join(import.meta.dirname, '..', '..', 'dist', 'examples', 'status.mjs');
await build({
  entryPoints: [entry],
  bundle: true,
  platform: 'node',
  format: 'esm',
  packages: 'external',
  outfile,
  logLevel: 'warning',
});

export const { agent, groups } = await import(outfile);
