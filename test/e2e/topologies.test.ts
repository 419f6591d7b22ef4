/** Encryption at rest, one source to two targets, several source agents with barriers, upstream NBD: with real agents. */
import { describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SimRandom } from '../sim/world/sim-random.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair } from '../support/pair.js';
import { makeSparseFile, runQemuIo, startQemuNbd } from '../support/tools.js';
import { waitFor } from '../support/wait.js';
import { StampedDisk, WallCounter } from './stamped-disk.js';
import { checkCheckpoint, listCheckpoints, readDisk } from './verify-checkpoints.js';

const MiB = 1024 * 1024;
const sizeBytes = 4 * MiB;
const group = 'shop';

test('encrypted at rest: no plain byte in the directory, no start without the key', async () => {
  await using lab = await Laboratory.open();
  const key = lab.path('group.key');
  writeFileSync(key, 'c0ffee00'.repeat(8), { mode: 0o600 });
  const file = makeSparseFile(lab.path('data.raw'), sizeBytes);
  const pair = await startPair(lab, {
    checkpointIntervalSeconds: 1,
    disks: [{ name: 'data', sizeBytes, kind: 'in-path', file }],
    encryptionKeyFile: key,
    history: { windowSeconds: 60, tiers: [] },
  });
  await pair.waitProtecting();
  // Noise: compressed bytes would hide as well as encrypted ones.
  const noise = randomBytes(MiB);
  writeFileSync(lab.path('noise.raw'), noise);
  await runQemuIo(lab.processes, await pair.exportUri('data'), [`write -s ${lab.path('noise.raw')} 0 1M`]);
  await pair.source.client.createCheckpoint(group, { kind: 'tagged', label: 'secret' });
  expect((await pair.targetStatus()).journal!.encrypted).toBe(true);
  const view = await pair.target.client.openView(group, { id: 'look', at: { by: 'label', label: 'secret' } });
  await runQemuIo(lab.processes, view.disks[0]!.uri, [`write -s ${lab.path('noise.raw')} 2M 1M`, 'flush']);
  await pair.target.kill();
  const plain = noise.subarray(8192, 8192 + 32);
  expect(readFileSync(file).includes(plain)).toBe(true);
  const files = filesBelow(join(pair.target.dataDirectory, 'groups'));
  expect(files.length).toBeGreaterThan(4);
  expect(files.filter((path) => readFileSync(path).includes(plain))).toEqual([]);
  // With another key the group is not opened, and the agent says so; with the right one it is all there again.
  writeFileSync(key, 'deadbeef'.repeat(8));
  const started = pair.target.start();
  started.catch(() => undefined);
  const wrong = async (): Promise<boolean> =>
    (await pair.target.client.health()).checks.some(({ name, ok }) => name === 'target-groups' && !ok);
  await waitFor('the key is refused', wrong);
  writeFileSync(key, 'c0ffee00'.repeat(8));
  await started;
  const shown = await readDisk(view.disks[0]!.uri, sizeBytes);
  for (const at of [0, 2 * MiB]) expect(shown.subarray(at, at + MiB).equals(noise)).toBe(true);
  await pair.stop();
}, 60_000);

test('one group to two targets: each has its own history, a dead one holds nobody up', async () => {
  await using lab = await Laboratory.open();
  const declared = {
    name: group,
    streams: ['source'],
    disks: [{ name: 'data', sizeBytes, stream: 'source' }],
    checkpointIntervalSeconds: 1,
  };
  const near = await lab.startAgent('near', { peers: [{ name: 'source' }], targetGroups: [declared] });
  const far = await lab.startAgent('far', { peers: [{ name: 'source' }], targetGroups: [declared] });
  const source = await lab.startAgent('source', {
    peers: [near, far].map(({ name, addresses }) => ({ name, address: addresses.stream })),
    sourceGroups: [
      {
        name: group,
        targets: [{ peer: 'near' }, { peer: 'far' }],
        checkpointIntervalSeconds: 1,
        disks: [{ kind: 'in-path', name: 'data', file: makeSparseFile(lab.path('data.raw'), sizeBytes) }],
      },
    ],
  });
  const newest = async (agent: typeof near): Promise<string> =>
    (await agent.client.group(group)).newestCheckpoint?.id ?? '';
  const newer = (agent: typeof near, than: string): Promise<unknown> =>
    waitFor(`a checkpoint at ${agent.name}`, async () => (await newest(agent)) > than);
  await Promise.all([newer(near, ''), newer(far, '')]);
  const uri = (await source.client.group(group)).disks[0]!.exportUri!;
  const disk = new StampedDisk('data', sizeBytes, uri, new SimRandom(1), new WallCounter());
  disk.start();
  try {
    await sleep(1500);
    await far.kill();
    await newer(near, await newest(near));
    await far.start();
    await newer(far, await newest(far));
    await source.client.createCheckpoint(group, { kind: 'tagged', label: 'both' });
  } finally {
    await disk.stop();
  }
  for (const agent of [near, far]) {
    await waitFor(`tag at ${agent.name}`, async () =>
      (await listCheckpoints(agent.client, group)).some(({ label }) => label === 'both'),
    );
    for (const checkpoint of await listCheckpoints(agent.client, group))
      expect(await checkCheckpoint(agent.client, group, checkpoint, [disk])).toBeUndefined();
  }
}, 60_000);

test('two source agents: barrier checkpoints are consistent over both', async () => {
  await using lab = await Laboratory.open();
  const names = ['left', 'right'];
  const target = await lab.startAgent('target', {
    peers: names.map((name) => ({ name })),
    targetGroups: [
      {
        name: group,
        streams: names,
        disks: names.map((name) => ({ name, sizeBytes, stream: name })),
        checkpointIntervalSeconds: 1,
      },
    ],
  });
  const counter = new WallCounter();
  const disks: StampedDisk[] = [];
  for (const [index, name] of names.entries()) {
    const file = makeSparseFile(lab.path(`${name}.raw`), sizeBytes);
    const source = await lab.startAgent(name, {
      peers: [{ name: 'target', address: target.addresses.stream }],
      sourceGroups: [
        {
          name: group,
          targets: [{ peer: 'target' }],
          checkpointIntervalSeconds: 1,
          disks: [{ kind: 'in-path', name, file }],
        },
      ],
    });
    const uri = (await source.client.group(group)).disks[0]!.exportUri!;
    disks.push(new StampedDisk(name, sizeBytes, uri, new SimRandom(index + 5), counter));
  }
  const complete = async (): Promise<number> =>
    (await listCheckpoints(target.client, group)).filter((checkpoint) => checkpoint.complete).length;
  await waitFor('a complete checkpoint', async () => (await complete()) > 0);
  for (const disk of disks) disk.start({ pauseMs: 2 });
  try {
    const before = await complete();
    await waitFor('five more', async () => (await complete()) >= before + 5);
    await target.client.createCheckpoint(group, { kind: 'tagged', label: 'together' });
  } finally {
    for (const disk of disks) await disk.stop();
  }
  const all = (await listCheckpoints(target.client, group)).filter((checkpoint) => checkpoint.complete);
  expect(all.some(({ label }) => label === 'together')).toBe(true);
  for (const checkpoint of all)
    expect(await checkCheckpoint(target.client, group, checkpoint, disks, { marks: false })).toBeUndefined();
}, 60_000);

describe('upstream NBD', () => {
  test('an in-path disk on another NBD server, which dies and comes back', async () => {
    await using lab = await Laboratory.open();
    const file = makeSparseFile(lab.path('upstream.raw'), sizeBytes);
    const socket = lab.path('upstream.sock');
    const first = await startQemuNbd(lab.processes, { name: 'upstream', file, socket });
    const target = await lab.startAgent('target', {
      peers: [{ name: 'source' }],
      targetGroups: [
        {
          name: group,
          streams: ['source'],
          disks: [{ name: 'data', sizeBytes, stream: 'source' }],
          checkpointIntervalSeconds: 1,
        },
      ],
    });
    const source = await lab.startAgent('source', {
      peers: [{ name: 'target', address: target.addresses.stream }],
      sourceGroups: [
        {
          name: group,
          targets: [{ peer: 'target' }],
          checkpointIntervalSeconds: 1,
          disks: [{ kind: 'in-path', name: 'data', upstream: first.uri }],
        },
      ],
    });
    await waitFor('protecting', async () => (await target.client.group(group)).state === 'protecting');
    const uri = (await source.client.group(group)).disks[0]!.exportUri!;
    await runQemuIo(lab.processes, uri, ['write -P 1 0 1M', 'flush']);
    await first.process.kill('SIGKILL');
    await expect(runQemuIo(lab.processes, uri, ['write -P 2 1M 1M'])).rejects.toThrow();
    await startQemuNbd(lab.processes, { name: 'upstream-again', file, socket: socket });
    await waitFor('writes go through again', async () => {
      await runQemuIo(lab.processes, uri, ['write -P 3 2M 1M', 'read -P 3 2M 1M']);
      return true;
    });
    await waitFor('complete again', async () => {
      const made = await source.client.createCheckpoint(group, { kind: 'tagged', label: 'after' });
      return made.complete;
    });
    const view = await target.client.openView(group, { id: 'look', at: { by: 'label', label: 'after' } });
    const compared = await lab.processes.run('qemu-img', [
      ...['compare', '-f', 'raw', '-F', 'raw', view.disks[0]!.uri, file],
    ]);
    expect(compared).toContain('identical');
  }, 60_000);
});

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .map((name) => join(directory, name))
    .filter((path) => statSync(path).isFile());
}
