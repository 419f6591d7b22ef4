/** Files out of a checkpoint by the command line: real file systems, and nothing left behind. Needs root for mounts. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { ViewStatus } from '../../agent/src/service/view-schemas.js';
import { operatorName } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair } from '../support/pair.js';
import { repositoryRoot } from '../support/paths.js';
import { makeSparseFile } from '../support/tools.js';
import { waitFor } from '../support/wait.js';
import { tidemark, tidemarkJson } from './cli.js';

const MiB = 1024 * 1024;
const isRoot = process.getuid?.() === 0;
if (!isRoot) console.warn('files: skipped, mounting needs root');

let lab: Laboratory;
let pair: Pair;
const runtimeBefore = process.env['XDG_RUNTIME_DIR'];

const run = (file: string, ...args: string[]): Promise<string> => lab.processes.run(file, args);
const files = (...args: string[]): ReturnType<typeof tidemark> => tidemark(lab, pair.target, 'files', ...args);
const list = (...args: string[]): Promise<{ name: string; kind: string; sizeBytes: number }[]> =>
  tidemarkJson(lab, pair.target, 'files', 'list', pair.group, ...args);

/** A tree with what is easily lost: modes, links, long names. */
function makeTree(): string {
  const tree = lab.path('tree', 'etc', 'hello');
  writeFileSync(tree, 'hello, guest\n', { mode: 0o640 });
  const root = lab.path('tree');
  mkdirSync(join(root, 'data'));
  writeFileSync(join(root, 'data', 'ä name with spaces'), Buffer.alloc(3 * MiB, 7));
  symlinkSync('/etc/hello', join(root, 'data', 'absolute'));
  symlinkSync('/', join(root, 'data', 'slash'));
  return root;
}

/** MBR with one Linux partition from 1 MiB to the end, without a tool. */
async function writePartitionTable(file: string, sizeBytes: number): Promise<void> {
  const sector = Buffer.alloc(512);
  sector[446 + 4] = 0x83;
  sector.writeUInt32LE(2048, 446 + 8);
  sector.writeUInt32LE(sizeBytes / 512 - 2048, 446 + 12);
  sector.writeUInt16LE(0xaa55, 510);
  const handle = await open(file, 'r+');
  await handle.write(sector, 0, 512, 0);
  await handle.close();
}

/** An ext4 in use when it was copied: its newest file is in the journal only. */
async function makeUnclean(file: string): Promise<void> {
  const original = makeSparseFile(lab.path('original.img'), 64 * MiB);
  const place = lab.path('original');
  mkdirSync(place);
  await run('mke2fs', '-q', '-F', '-t', 'ext4', '-O', '^has_journal', original);
  await run('tune2fs', '-O', 'has_journal', original);
  await run('mount', '-o', 'loop', original, place);
  try {
    writeFileSync(join(place, 'late'), 'only in the journal\n');
    await run('sync', '-f', join(place, 'late'));
    await run('cp', '--sparse=always', original, file);
  } finally {
    await run('umount', place);
  }
  expect(await run('dumpe2fs', '-h', file)).toContain('needs_recovery');
}

(isRoot ? describe : describe.skip)('files', () => {
  beforeAll(async () => {
    lab = await Laboratory.open();
    process.env['XDG_RUNTIME_DIR'] = lab.path('run');
    const tree = makeTree();
    const parted = makeSparseFile(lab.path('parted.img'), 64 * MiB);
    await writePartitionTable(parted, 64 * MiB);
    await run('mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, '-E', `offset=${MiB}`, parted, '63M');
    const xfs = makeSparseFile(lab.path('xfs.img'), 320 * MiB);
    writeFileSync(lab.path('proto'), `/\n0 0\nd--755 0 0\nhello ---644 7 8 ${join(tree, 'etc', 'hello')}\n$\n`);
    await run('mkfs.xfs', '-q', '-p', lab.path('proto'), xfs);
    const ntfs = makeSparseFile(lab.path('ntfs.img'), 16 * MiB);
    await run('mkntfs', '--quick', '--quiet', '--force', ntfs);
    await run('ntfscp', '--quiet', '--force', ntfs, join(tree, 'data', 'ä name with spaces'), 'grüße.bin');
    const unclean = lab.path('unclean.img');
    await makeUnclean(unclean);
    const blank = makeSparseFile(lab.path('blank.img'), MiB);
    const disk = (name: string, file: string, sizeBytes: number): object => ({ name, file, sizeBytes });
    pair = await startPair(lab, {
      checkpointIntervalSeconds: 1,
      disks: [
        disk('parted', parted, 64 * MiB),
        disk('xfs', xfs, 320 * MiB),
        disk('ntfs', ntfs, 16 * MiB),
        disk('unclean', unclean, 64 * MiB),
        disk('blank', blank, MiB),
      ] as never,
    });
    await pair.waitProtecting();
  }, 120_000);

  afterAll(async () => {
    if (runtimeBefore === undefined) delete process.env['XDG_RUNTIME_DIR'];
    else process.env['XDG_RUNTIME_DIR'] = runtimeBefore;
    await lab.close();
  });

  /** No mount, loop device, process, directory or view of this laboratory. */
  async function nothingLeft(): Promise<void> {
    const state = lab.path('run', 'tidemark-files');
    await waitFor('nothing is left', async () => {
      const loops = await run('losetup', '--list', '--noheadings', '--output', 'BACK-FILE');
      const views = await tidemarkJson<ViewStatus[]>(lab, pair.target, 'view', 'list');
      const left = readFileSync('/proc/self/mounts', 'utf8').includes(lab.directory) || loops.includes(lab.directory);
      return !left && views.length === 0 && (!existsSync(state) || readdirSync(state).length === 0);
    });
    await waitFor('nbdfuse is gone', async () => !(await run('ps', '-eo', 'args')).includes(`nbdfuse ${state}`));
  }
  // Without a pair the set-up has failed, and says so.
  afterEach(() => ((pair as Pair | undefined) === undefined ? undefined : nothingLeft()));

  test('lists a directory of a partitioned ext4', async () => {
    expect(await list('/etc', '--disk', 'parted')).toMatchObject([{ name: 'hello', kind: 'file', sizeBytes: 13 }]);
    const text = await files('list', pair.group, '--disk', 'parted', '--partition', '1');
    expect(text.stdout).toMatch(/^data +directory/m);
  });

  test('copies a tree with its modes and links; a link in the guest leads nowhere on this host', async () => {
    const copy = lab.path('copied');
    expect(await files('copy', pair.group, '/', copy, '--disk', 'parted')).toMatchObject({ code: 0 });
    await run('diff', '--recursive', '--no-dereference', '--exclude=lost+found', lab.path('tree'), copy);
    const link = lab.path('link');
    expect(await files('copy', pair.group, 'data/slash/data/../data/absolute', link, '--disk', 'parted')).toMatchObject(
      {
        code: 0,
      },
    );
    expect(readFileSync(link, 'utf8')).toBe('hello, guest\n');
    const out = await files('copy', pair.group, '../../../../proc/self/status', lab.path('out'), '--disk', 'parted');
    expect(out.stderr).toContain('storage-not-found');
  });

  test('xfs and ntfs', async () => {
    expect(await list('--disk', 'xfs')).toMatchObject([{ name: 'hello', sizeBytes: 13 }]);
    expect((await list('--disk', 'ntfs')).find(({ name }) => name === 'grüße.bin')).toMatchObject({
      sizeBytes: 3 * MiB,
    });
    const copy = lab.path('of-ntfs');
    expect(await files('copy', pair.group, '/grüße.bin', copy, '--disk', 'ntfs')).toMatchObject({ code: 0 });
    expect(readFileSync(copy).equals(Buffer.alloc(3 * MiB, 7))).toBe(true);
  });

  test('an unclean file system replays its journal into the scratch; the checkpoint stays as it was', async () => {
    for (let round = 0; round < 2; round++)
      expect((await list('--disk', 'unclean')).map(({ name }) => name)).toContain('late');
  });

  test('what cannot be mounted is refused with what there is', async () => {
    expect((await files('list', pair.group, '--disk', 'blank')).stderr).toContain('request-invalid: No file system');
    expect((await files('list', pair.group)).stderr).toContain('name the disk: parted, xfs, ntfs, unclean, blank');
    expect((await files('list', pair.group, '--disk', 'parted', '--partition', '3')).stderr).toContain('1: ext4');
    expect((await files('list', pair.group, '/none', '--disk', 'xfs')).stderr).toContain('storage-not-found');
    expect((await files('mount', pair.group, '--to', lab.path('tree'), '--disk', 'xfs')).stderr).toContain('not empty');
  });

  interface Mounted {
    readonly child: ChildProcess;
    readonly directory: string;
  }

  async function mount(name: string): Promise<Mounted> {
    const pki = (file: string): string => join(lab.pkiDirectory, file);
    const directory = lab.path(name);
    const child = spawn(
      join(repositoryRoot(), 'dist', 'tidemark'),
      ['files', 'mount', pair.group, '--disk', 'parted', '--to', directory],
      {
        stdio: ['ignore', 'ignore', 'inherit'],
        env: {
          ...process.env,
          TIDEMARK_API: pair.target.addresses.api,
          TIDEMARK_CERTIFICATE: pki(`${operatorName}.crt`),
          TIDEMARK_KEY: pki(`${operatorName}.key`),
          TIDEMARK_AUTHORITY: pki('ca.crt'),
        },
      },
    );
    await waitFor('the mount', () => existsSync(join(directory, 'etc', 'hello')) || child.exitCode !== null);
    return { child, directory };
  }

  test.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)('a mount is read-only and ends with %s', async (signal) => {
    const { child, directory } = await mount(`mnt-${signal}`);
    expect(readFileSync(join(directory, 'etc', 'hello'), 'utf8')).toBe('hello, guest\n');
    expect(() => writeFileSync(join(directory, 'new'), 'x')).toThrow(/EROFS/);
    child.kill(signal);
    await waitFor('unmounted', () => readdirSync(directory).length === 0);
  });

  test('command and watcher killed: the next command clears it away', async () => {
    const { child, directory } = await mount('mnt-both');
    const watchers = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8')
      .trim()
      .split(' ')
      .map(Number);
    for (const pid of watchers)
      if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('files\0watch\0')) process.kill(pid, 'SIGKILL');
    child.kill('SIGKILL');
    await waitFor('the command is gone', () => child.signalCode !== null);
    expect(existsSync(join(directory, 'etc', 'hello'))).toBe(true);
    await list('--disk', 'xfs');
    expect(readdirSync(directory)).toEqual([]);
  });
});
