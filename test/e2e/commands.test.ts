/** What a person does by the command line, with real agents: list, view, export, verify, fail over, roll back, commit. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { GroupStatus } from '../../agent/src/service/group-schemas.js';
import type { RpoHistory } from '../../agent/src/service/rpo-schemas.js';
import type { Operation } from '../../agent/src/service/operation-schemas.js';
import type { ViewStatus } from '../../agent/src/service/view-schemas.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair } from '../support/pair.js';
import { makeSparseFile, runNbdcopy, runQemuIo } from '../support/tools.js';
import { waitFor } from '../support/wait.js';
import { tidemark, tidemarkJson } from './cli.js';

const MiB = 1024 * 1024;
const sizeBytes = 16 * MiB;
const content = Buffer.alloc(sizeBytes);

let lab: Laboratory;
let pair: Pair;

const target = <T>(...args: string[]): Promise<T> => tidemarkJson<T>(lab, pair.target, ...args);
const write = async (...commands: string[]): Promise<string> =>
  runQemuIo(lab.processes, await pair.exportUri('data'), commands);
const tag = (label: string): Promise<Checkpoint> =>
  tidemarkJson<Checkpoint>(lab, pair.source, 'checkpoint', 'create', pair.group, '--label', label);

beforeAll(async () => {
  lab = await Laboratory.open();
  pair = await startPair(lab, {
    checkpointIntervalSeconds: 1,
    disks: [{ name: 'data', sizeBytes, kind: 'in-path', file: makeSparseFile(lab.path('data.raw'), sizeBytes) }],
  });
  await pair.waitProtecting();
  content.set(randomBytes(3 * MiB), MiB);
  writeFileSync(lab.path('content.raw'), content);
  await runNbdcopy(lab.processes, lab.path('content.raw'), await pair.exportUri('data'));
  await tag('loaded');
  await write('write -P 1 0 1M');
}, 60_000);

afterAll(() => lab.close());

describe('checkpoints and views', () => {
  test('are listed, newest first, and found by label and time', async () => {
    const all = await target<Checkpoint[]>('checkpoints', 'list', pair.group, '--limit', '1000');
    expect(all.map(({ id }) => id)).toEqual(all.map(({ id }) => id).toSorted((a, b) => (a < b ? 1 : -1)));
    const [tagged] = await target<Checkpoint[]>('checkpoints', 'list', pair.group, '--label', 'loaded');
    expect(tagged).toMatchObject({ kind: 'tagged', label: 'loaded', complete: true });
    const text = await tidemark(lab, pair.target, 'checkpoints', 'list', pair.group, '--timeline');
    expect(text.code).toBe(0);
    expect(Math.max(...text.stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80);
  });

  test('the RPO over time is seen at both ends, and drawn', async () => {
    for (const agent of [pair.source, pair.target])
      await waitFor('an RPO', async () => {
        const { slots } = await tidemarkJson<RpoHistory>(lab, agent, 'rpo', pair.group);
        return slots.some(({ rpoSeconds }) => rpoSeconds !== null);
      });
    const { code, stdout } = await tidemark(lab, pair.target, 'rpo', pair.group, '--from', '-2m');
    expect(code).toBe(0);
    expect(stdout).toContain('checkpoints every 1.0 s');
  });

  test('a view opens fast, is writable and private', async () => {
    const startedMs = performance.now();
    const view = await target<ViewStatus>('view', 'open', pair.group, '--at', 'label:loaded', '--id', 'one');
    expect(performance.now() - startedMs).toBeLessThan(3000);
    const uri = view.disks[0]!.uri;
    await runNbdcopy(lab.processes, uri, lab.path('view.raw'));
    expect(readFileSync(lab.path('view.raw')).equals(content)).toBe(true);
    await runQemuIo(lab.processes, uri, ['write -P 7 8M 1M', 'flush', 'read -P 7 8M 1M']);
    const other = await target<ViewStatus>('view', 'open', pair.group, '--at', 'label:loaded', '--id', 'two');
    await runQemuIo(lab.processes, other.disks[0]!.uri, ['read -P 0 8M 1M']);
    // A killed agent serves the same bytes again.
    await pair.target.kill();
    await pair.target.start();
    await runQemuIo(lab.processes, uri, ['read -P 7 8M 1M']);
    for (const id of ['one', 'two']) expect((await tidemark(lab, pair.target, 'view', 'close', id)).code).toBe(0);
  });

  test('a checkpoint that is not there is refused with a code and exit code 3', async () => {
    const { code, stderr, stdout } = await tidemark(
      lab,
      pair.target,
      'view',
      'open',
      pair.group,
      '--at',
      'label:never',
    );
    expect(code).toBe(3);
    expect(stderr + stdout).toContain('checkpoint-unknown');
  });
});

describe('export and verify', () => {
  test.each(['raw', 'qcow2'])('export as %s, by the client and on the agent', async (format) => {
    for (const where of ['client', 'agent']) {
      const directory = lab.path(`export-${format}-${where}`);
      mkdirSync(directory, { recursive: true });
      const onAgent = where === 'agent' ? ['--on-agent'] : [];
      await target('export', pair.group, directory, '--at', 'label:loaded', '--format', format, ...onAgent);
      const compared = await lab.processes.run('qemu-img', [
        ...['compare', '-f', format, '-F', 'raw', `${directory}/data.${format}`, lab.path('content.raw')],
      ]);
      expect(compared).toContain('identical');
    }
  });

  test('verify reads everything', async () => {
    const done = await target<Operation>('verify', pair.group, '--at', 'label:loaded');
    expect(done).toMatchObject({ state: 'succeeded' });
    const { sha256 } = done.result as { sha256: Record<string, string> };
    const [own] = (await lab.processes.run('sha256sum', [lab.path('content.raw')])).split(' ');
    expect(sha256['data']).toBe(own);
  });
});

test('sync reads the disk again: what changed behind the agent reaches the target', async () => {
  const byte = Buffer.alloc(4096, 0x77);
  const file = openSync(lab.path('data.raw'), 'r+');
  writeSync(file, byte, 0, byte.length, 15 * MiB);
  closeSync(file);
  const done = await tidemarkJson<Operation>(lab, pair.source, 'group', 'sync', pair.group, '--disk', 'data');
  expect(done).toMatchObject({ kind: 'sync', state: 'succeeded' });
  const { id } = await tag('synced');
  const view = await target<ViewStatus>('view', 'open', pair.group, '--at', id, '--id', 'synced');
  await runQemuIo(lab.processes, view.disks[0]!.uri, ['read -P 0x77 15M 4k']);
  await target('view', 'close', 'synced');
  expect((await tidemark(lab, pair.target, 'group', 'sync', pair.group)).code).toBe(2);
});

describe('transitions', () => {
  const state = async (): Promise<GroupStatus> => pair.target.client.group(pair.group);

  test('failover, rollback: the source goes on', async () => {
    const refused = await tidemark(lab, pair.target, 'failover', pair.group);
    expect(refused.code).toBe(3);
    await target('failover', pair.group, '--at', 'label:loaded', '--source-may-be-alive', '--id', 'first');
    expect((await state()).state).toBe('failed-over');
    const [view] = await pair.target.client.views(pair.group);
    await runQemuIo(lab.processes, view!.disks[0]!.uri, ['read -P 0 0 1M', 'write -P 9 0 1M', 'flush']);
    await waitFor('the source is fenced', async () => (await pair.sourceStatus()).state === 'fenced');
    // Its guest goes on.
    await write('write -P 3 12M 1M');
    await target('rollback', pair.group, '--keep-hours', '0', '--id', 'back');
    const left = async (): Promise<number> => (await pair.target.client.views(pair.group)).length;
    await waitFor('what it wrote is not kept', async () => (await left()) === 0);
    expect((await state()).epoch).toMatchObject({ epoch: 3, holder: 'source' });
    await waitFor('protected again', async () => (await state()).state === 'protecting', { timeoutMs: 45_000 });
    const after = await tag('after-rollback');
    const again = await target<ViewStatus>('view', 'open', pair.group, '--at', after.id, '--id', 'rolled-back');
    await runQemuIo(lab.processes, again.disks[0]!.uri, ['read -P 1 0 1M', 'read -P 3 12M 1M']);
    await target('view', 'close', 'rolled-back');
  }, 90_000);

  test('failover, kill in between, commit', async () => {
    await pair.source.kill();
    await waitFor('the target saw it', async () => (await state()).links.length === 0);
    await target('failover', pair.group, '--id', 'second');
    const production = async (): Promise<ViewStatus> =>
      (await pair.target.client.views(pair.group)).find(({ purpose }) => purpose === 'production')!;
    await runQemuIo(lab.processes, (await production()).disks[0]!.uri, ['write -P 11 1M 1M', 'flush']);
    await pair.target.kill();
    await pair.target.start();
    await runQemuIo(lab.processes, (await production()).disks[0]!.uri, ['read -P 11 1M 1M', 'read -P 3 12M 1M']);
    const done = await target<Operation>('commit', pair.group, '--id', 'third');
    const [file] = (done.result as { files: string[] }).files;
    await runQemuIo(lab.processes, file!, ['read -P 11 1M 1M', 'read -P 1 0 1M', 'read -P 3 12M 1M']);
    expect((await state()).state).toBe('committed');
    // Asked again by the same id, it is the same operation; rollback is too late.
    expect((await target<Operation>('commit', pair.group, '--id', 'third')).state).toBe('succeeded');
    expect((await tidemark(lab, pair.target, 'rollback', pair.group)).code).toBe(3);
  }, 60_000);
});
