/**
 * Bundles a program of this folder and runs it: TypeScript with ESM imports then works on every Node that Pulumi supports,
 * with no loader.
 */
import { join } from 'node:path';
import { build } from 'esbuild';

export async function load(name) {
  const outfile = join(import.meta.dirname, '..', 'dist', 'examples', `${name}.mjs`);
  await build({
    entryPoints: [join(import.meta.dirname, name, `${name}.ts`)],
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    packages: 'external',
    outfile,
    logLevel: 'warning',
  });
  return import(outfile);
}
