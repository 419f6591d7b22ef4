/** A group that begins with a seed: an old copy of the disk lies at the target, and only what differs crosses the wire. */
import { expect, test } from '@jest/globals';
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createHash, randomBytes } from 'node:crypto';
import type { AgentHandle } from '../support/agent-handle.js';
import { startCountingRelay } from '../support/counting-relay.js';
import { Laboratory } from '../support/laboratory.js';
import { waitFor } from '../support/wait.js';
import { tidemarkJson } from './cli.js';

const MiB = 1024 * 1024;
const sizeBytes = 64 * MiB;
const chunkBytes = 65_536;

async function protect(lab: Laboratory, name: string, file: string, seed: string | undefined) {
  const disk = { name: 'data', sizeBytes, stream: `source-${name}`, ...(seed === undefined ? {} : { seed }) };
  const target = await lab.startAgent(`target-${name}`, {
    peers: [{ name: `source-${name}` }],
    targetGroups: [{ name: 'shop', streams: [`source-${name}`], disks: [disk], checkpointIntervalSeconds: 1 }],
  });
  const wire = await startCountingRelay(target.addresses.stream);
  const source = await lab.startAgent(`source-${name}`, {
    peers: [{ name: `target-${name}`, address: wire.address }],
    sourceGroups: [
      {
        name: 'shop',
        targets: [{ peer: `target-${name}` }],
        checkpointIntervalSeconds: 1,
        disks: [{ kind: 'in-path', name: 'data', sizeBytes, file }],
      },
    ],
  });
  await waitFor(
    `${name} protecting`,
    async () => {
      const { state, newestCheckpoint } = await target.client.group('shop');
      return state === 'protecting' && newestCheckpoint !== null;
    },
    { timeoutMs: 120_000 },
  );
  return { target, source, wire };
}

async function sha256At(lab: Laboratory, target: AgentHandle): Promise<string> {
  const done = await tidemarkJson<{ result: { sha256: { data: string } } }>(
    lab,
    target,
    'verify',
    'shop',
    '--at',
    'latest',
  );
  return done.result.sha256.data;
}

const hashOf = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex');

test('a seed of which 1 % differs costs at most 5 % of a first sync', async () => {
  await using lab = await Laboratory.open();
  const file = lab.path('data.raw');
  writeFileSync(file, randomBytes(sizeBytes));
  const seed = lab.path('old.raw');
  copyFileSync(file, seed);
  const old = hashOf(seed);
  // The old copy is of a smaller disk, and 1 % of the chunks have changed since.
  const now = readFileSync(file);
  for (let count = 0; count < sizeBytes / chunkBytes / 100; count++)
    randomBytes(4096).copy(now, Math.floor((count * sizeBytes) / 11 / chunkBytes) * chunkBytes);
  writeFileSync(file, now);

  const whole = await protect(lab, 'whole', file, undefined);
  await using _whole = whole.wire;
  const wholeBytes = whole.wire.bytes();
  expect(await sha256At(lab, whole.target)).toBe(hashOf(file));
  await whole.source.stop();

  const seeded = await protect(lab, 'seeded', file, seed);
  await using _seeded = seeded.wire;
  const seededBytes = seeded.wire.bytes();
  expect(await sha256At(lab, seeded.target)).toBe(hashOf(file));
  console.log(
    `first sync ${wholeBytes} bytes, seeded ${seededBytes} bytes: ${((seededBytes * 100) / wholeBytes).toFixed(2)} %`,
  );
  expect(seededBytes).toBeLessThan(wholeBytes * 0.05);
  expect(hashOf(seed)).toBe(old);
});

test('a file that cannot be a seed is refused before anything is made', async () => {
  await using lab = await Laboratory.open();
  const target = await lab.startAgent('target', { peers: [{ name: 'source' }] });
  const large = lab.path('large.raw');
  writeFileSync(large, 'x');
  truncateSync(large, 2 * MiB);
  const qcow2 = lab.path('image.qcow2');
  writeFileSync(qcow2, Buffer.concat([Buffer.from('QFI\xfb', 'latin1'), Buffer.alloc(1000)]));
  for (const [seed, why] of [
    [lab.path('none.raw'), 'cannot be opened'],
    [large, 'more than the disk'],
    [qcow2, 'qcow2'],
  ] as const) {
    const disks = [{ name: 'data', sizeBytes: MiB, stream: 'source', seed }];
    const declared = target.client.declareGroup('shop', { spec: { streams: ['source'], disks } });
    await expect(declared).rejects.toMatchObject({ code: 'request-invalid', message: expect.stringContaining(why) });
    expect((await target.client.groups()).length).toBe(0);
  }
});
