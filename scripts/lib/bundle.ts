/** How every piece of TypeScript here becomes JavaScript: esbuild, one set of options for agent, workers and tools. */
import { globSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { build, type BuildOptions } from 'esbuild';

export const root = join(import.meta.dirname, '..', '..');

/** Where worker bundles lie outside the executable; told to the agent by `TIDEMARK_WORKER_DIR`. */
export const workerDir = join(root, 'dist', 'workers');

/** Paths of the entries of worker threads: every `*.worker.ts` under agent/src. */
export function workerEntries(): string[] {
  return globSync('agent/src/**/*.worker.ts', { cwd: root })
    .sort()
    .map((path) => join(root, path));
}

/** `x.worker.ts` is the file `x.worker.cjs` in `workerDir` and the asset `x.worker.cjs` in the executable. */
export function workerName(entry: string): string {
  return basename(entry).replace(/\.ts$/, '.cjs');
}

const nodeOptions = { bundle: true, platform: 'node', target: 'node24', absWorkingDir: root } satisfies BuildOptions;

/** One CommonJS text with every dependency inside, as a single executable needs it. No top-level await. */
export async function bundleSelfContained(entry: string, define: Record<string, string> = {}): Promise<string> {
  const result = await build({
    ...nodeOptions,
    entryPoints: [entry],
    format: 'cjs',
    write: false,
    logLevel: 'warning',
    legalComments: 'none',
    // What ssh2 is faster with and does without: native modules cannot be inside the executable.
    external: ['cpu-features', '*.node'],
    define: { 'import.meta.url': '__moduleUrl', ...define },
    banner: { js: "const __moduleUrl = require('node:url').pathToFileURL(process.execPath).href;" },
  });
  return result.outputFiles[0]!.text;
}

/** Bundles every worker thread to `workerDir`, by renames: whoever runs at the same time sees whole files. */
export async function bundleWorkers(): Promise<void> {
  mkdirSync(workerDir, { recursive: true });
  for (const entry of workerEntries()) {
    const result = await build({
      ...nodeOptions,
      entryPoints: [entry],
      format: 'cjs',
      write: false,
      sourcemap: 'inline',
      logLevel: 'warning',
    });
    const path = join(workerDir, workerName(entry));
    writeFileSync(`${path}.${process.pid}`, result.outputFiles[0]!.text);
    renameSync(`${path}.${process.pid}`, path);
  }
}

/** Bundles our own code of a tool to one ESM file; packages stay in node_modules. */
export async function bundleTool(entry: string, outfile: string, define: Record<string, string> = {}): Promise<void> {
  await build({
    ...nodeOptions,
    entryPoints: [entry],
    format: 'esm',
    packages: 'external',
    outfile,
    sourcemap: true,
    logLevel: 'warning',
    define,
  });
}
