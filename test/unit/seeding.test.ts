import { expect, test } from '@jest/globals';
import type { TidemarkError } from '../../agent/src/core/errors.js';
import { chunkBytes } from '../../agent/src/replica/digest.js';
import type { Hello } from '../../agent/src/stream/messages.js';
import { TargetGroup, type GroupOptions } from '../../agent/src/target/group.js';
import type { TargetSession } from '../../agent/src/target/session.js';
import type { SimHost, SimProcess } from '../sim/world/sim-host.js';
import { SimWorld } from '../sim/world/sim-world.js';

const seed = '/data/old.raw';
const sizeBytes = 40 * chunkBytes + 512;

function optionsOf({ storage, clock, random }: SimProcess, key: Uint8Array | undefined): GroupOptions {
  const views = { opened: () => undefined, closing: () => Promise.resolve(), clientCount: () => 0 };
  const events = { emit: () => undefined };
  return { storage, clock, random, events, key, directory: '/data/groups/erp', views, onFailed: () => undefined };
}

const declaration = {
  name: 'erp',
  streams: ['a'],
  disks: [{ name: 'vda', sizeBytes, stream: 'a', seed }],
  settings: {},
};

async function placeSeed(world: SimWorld, host: SimHost): Promise<Uint8Array> {
  const { storage } = host.start();
  const bytes = world.random.bytes(30 * chunkBytes + 1000);
  bytes.fill(0, 3 * chunkBytes, 9 * chunkBytes);
  const write = async (): Promise<void> => {
    await storage.makeDirectory('/data');
    const file = await storage.open(seed, 'create');
    await file.write(bytes, 0);
    await file.datasync();
    await file.close();
    await storage.syncDirectory('/data');
  };
  await world.drive(write(), 10_000);
  return bytes;
}

async function expectSeeded(world: SimWorld, group: TargetGroup, bytes: Uint8Array): Promise<void> {
  const end = await world.run({ until: () => !group.seeding.active, untilMs: world.nowMs + 120_000 });
  expect(end).toBe('until');
  const image = new Uint8Array(sizeBytes);
  const disk = group.context.replicas.replica.disk(0);
  await world.drive(disk.read(image, 0), 10_000);
  expect(Buffer.compare(image.subarray(0, bytes.length), bytes)).toBe(0);
  expect(image.subarray(bytes.length).every((byte) => byte === 0)).toBe(true);
  const damaged = await world.drive(
    group.context.replicas.verify(() => undefined, new AbortController().signal),
    10_000,
  );
  expect(damaged).toEqual([]);
}

test.each([
  ['plain', undefined],
  ['encrypted', new Uint8Array(32).fill(7)],
])('a replica is made from its seed, cut short anywhere (%s)', async (_what, key) => {
  let cuts = 0;
  for (let round = 0; round < 25; round++) {
    const world = new SimWorld(round);
    const host = world.addHost('t');
    const bytes = await placeSeed(world, host);
    await world.drive(TargetGroup.create(optionsOf(host.process!, key), declaration), 10_000);
    // Power goes somewhere in the middle, twice.
    for (let cut = 0; cut < 2; cut++) {
      host.crashAfterIo(1 + world.random.int(60), world.random.pick(['kill', 'power'] as const));
      await world.run({ until: () => host.process === undefined, untilMs: world.nowMs + 5000 });
      if (host.process === undefined) cuts++;
      else host.powerCut();
      const process = host.start();
      const opened = TargetGroup.open(optionsOf(process, key));
      if (cut === 0) opened.catch(() => undefined);
      else await expectSeeded(world, await world.drive(opened, 10_000), bytes);
    }
  }
  expect(cuts).toBeGreaterThan(15);
});

test('no source is admitted before, a missing file is reported, and it is tried again', async () => {
  const world = new SimWorld(1);
  const host = world.addHost('t');
  const bytes = await placeSeed(world, host);
  const { storage } = host.process!;
  await world.drive(storage.rename(seed, `${seed}.away`), 5000);
  const group = await world.drive(TargetGroup.create(optionsOf(host.process!, undefined), declaration), 10_000);
  await world.run({ until: () => group.seeding.failure !== undefined, untilMs: world.nowMs + 5000 });
  expect(group.seeding.failure).toContain('old.raw');
  const hello = { ...{ protocol: 1, software: 't', group: 'erp', stream: 'a', epoch: 0, branch: '0'.repeat(16) } };
  const admitted = group.admit(
    {
      ...hello,
      incarnation: 0,
      nonce: '1'.repeat(32),
      durableSequence: 0,
      disks: [{ name: 'vda', sizeBytes }],
    } as Hello,
    {} as TargetSession,
  );
  const refusal = await world.drive(
    admitted.then(
      () => undefined,
      (error: unknown) => error as TidemarkError,
    ),
    5000,
  );
  expect(refusal?.code).toBe('seeding');
  await world.drive(storage.rename(`${seed}.away`, seed), 5000);
  await expectSeeded(world, group, bytes);
  await world.drive(group.close(), 5000);
});
