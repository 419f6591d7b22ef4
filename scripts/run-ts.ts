/**
 * Runs a TypeScript entry on the pinned Node: `node scripts/run-ts.ts ENTRY [ARGS…]`.
 * Our code is bundled to dist/run/PID/ with a source map, packages come from node_modules. Signals and the exit code pass
 * through. `import.meta.url` inside is that of the bundle: find files of the checkout from `TIDEMARK_ROOT`.
 */
import { spawn } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { constants } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { bundleTool, bundleWorkers, root, workerDir } from './lib/bundle.ts';

const [entry, ...args] = process.argv.slice(2);
if (entry === undefined || !existsSync(resolve(root, entry))) {
  console.error(entry === undefined ? 'usage: run-ts ENTRY [ARGS…]' : `run-ts: ${entry} does not exist`);
  process.exit(2);
}

const runDir = join(root, 'dist', 'run', String(process.pid));
const outfile = join(runDir, basename(entry).replace(/\.ts$/, '.mjs'));
process.on('exit', () => rmSync(runDir, { recursive: true, force: true }));
await Promise.all([bundleTool(resolve(root, entry), outfile), bundleWorkers()]);

const nodeArgs = ['--enable-source-maps', '--expose-gc', '--disable-warning=ExperimentalWarning'];
const child = spawn(process.execPath, [...nodeArgs, outfile, ...args], {
  stdio: 'inherit',
  env: { ...process.env, TIDEMARK_ROOT: root, TIDEMARK_WORKER_DIR: workerDir },
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal!]));
