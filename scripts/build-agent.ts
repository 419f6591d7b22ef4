/**
 * Builds dist/tidemark: one executable with the agent, its worker threads and Node inside.
 * Bundling takes a second and always happens; the executable is written only when what goes into it has changed.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { bundleSelfContained, root, workerEntries, workerName } from './lib/bundle.ts';
import { describeVersion } from './lib/version.ts';

const entry = join(root, 'agent', 'src', 'main.ts');
const executable = join(root, 'dist', 'tidemark');
const keyFile = `${executable}.key`;
const execArgv = [
  '--disable-warning=ExperimentalWarning',
  // The code of a checkpoint mark runs once a second: forgotten in between, it would take ten times as long.
  '--no-flush-bytecode',
  '--max-semi-space-size=8',
  // V8 alone would walk the heap for every 8 MiB of buffers that pass by (ten times a second while it spools), since a
  // collection is cheap beside what a program gets done in between; but a guest's write waits for each.
  '--heap-growing-percent=100',
];
const sentinelFuse = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2';

if (!fs.existsSync(entry)) {
  console.error('build-agent: agent/src/main.ts does not exist');
  process.exit(1);
}

const version = describeVersion();
const define = { __TIDEMARK_VERSION__: JSON.stringify(version), __TIDEMARK_PLANTED__: 'false' };
const files = new Map([['main.cjs', await bundleSelfContained(entry, define)]]);
for (const worker of workerEntries()) files.set(workerName(worker), await bundleSelfContained(worker, define));

const hash = createHash('sha256')
  .update(process.version)
  .update(fs.readFileSync(import.meta.filename));
for (const [name, text] of files) hash.update(`\0${name}\0${text}`);
const key = hash.digest('hex');

if (fs.existsSync(executable) && fs.existsSync(keyFile) && fs.readFileSync(keyFile, 'utf8') === key) {
  console.log(`dist/tidemark ${version} is up to date`);
} else {
  assemble();
  console.log(`dist/tidemark ${version} built (Node ${process.versions.node} inside)`);
}

/** Writes beside the old executable and renames, so that a running or concurrent build never sees half a file. */
function assemble(): void {
  fs.mkdirSync(join(root, 'dist'), { recursive: true });
  const work = fs.mkdtempSync(join(root, 'dist', 'sea-'));
  try {
    for (const [name, text] of files) fs.writeFileSync(join(work, name), text);
    const assets = [...files.keys()].filter((name) => name !== 'main.cjs').map((name) => [name, join(work, name)]);
    const config = {
      main: join(work, 'main.cjs'),
      output: join(work, 'blob'),
      disableExperimentalSEAWarning: true,
      execArgv,
      assets: Object.fromEntries(assets) as Record<string, string>,
    };
    fs.writeFileSync(join(work, 'config.json'), JSON.stringify(config));
    runNode('--experimental-sea-config', join(work, 'config.json'));

    const built = join(work, 'tidemark');
    fs.copyFileSync(process.execPath, built);
    fs.chmodSync(built, 0o755);
    const postject = join(root, 'node_modules', 'postject', 'dist', 'cli.js');
    runNode(postject, built, 'NODE_SEA_BLOB', config.output, '--sentinel-fuse', sentinelFuse);
    fs.renameSync(built, executable);
    fs.writeFileSync(keyFile, key);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
}

/** Shows what the tool said only when it fails: postject warns about ELF notes that are none of our business. */
function runNode(...args: string[]): void {
  execFileSync(process.execPath, args, { stdio: 'pipe' });
}
