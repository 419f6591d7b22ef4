/** The simulated disk must really do the harm that its contract allows, and never more. */
import { describe, expect, test } from '@jest/globals';
import type { Storage } from '../../../agent/src/core/storage.js';
import type { SimHost } from './sim-host.js';
import { SimWorld } from './sim-world.js';

interface Fixture {
  readonly world: SimWorld;
  readonly host: SimHost;
  readonly storage: Storage;
}

const seedCount = 120;
const fileBytes = 8192;
const sector = 512;

/** Runs a scenario on many seeds and counts what it says it saw. */
async function outcomes(scenario: (fixture: Fixture) => Promise<string>): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (let seed = 1; seed <= seedCount; seed++) {
    const world = new SimWorld(seed);
    const host = world.addHost('a');
    const outcome = await scenario({ world, host, storage: host.start().storage });
    counts[outcome] = (counts[outcome] ?? 0) + 1;
  }
  return counts;
}

/** A durable file of zeros at /d/f, overwritten with ones; then `after`, then a power cut. */
async function overwritten({ world, host, storage }: Fixture, after: 'sync' | 'nothing'): Promise<Uint8Array> {
  await world.drive(
    (async () => {
      await storage.makeDirectory('/d');
      const file = await storage.open('/d/f', 'create');
      await file.write(new Uint8Array(fileBytes), 0);
      await file.datasync();
      await storage.syncDirectory('/d');
      await file.write(new Uint8Array(fileBytes).fill(1), 0);
      if (after === 'sync') await file.datasync();
    })(),
  );
  host.powerCut();
  return host.disk.peek('/d/f');
}

function describeSectors(bytes: Uint8Array): string {
  const sums = Array.from({ length: bytes.length / sector }, (_, index) =>
    bytes.subarray(index * sector, (index + 1) * sector).reduce((sum, byte) => sum + byte, 0),
  );
  if (sums.every((sum) => sum === 0)) return 'lost';
  if (sums.every((sum) => sum === sector)) return 'kept';
  return sums.some((sum) => sum > 0 && sum < sector) ? 'torn' : 'mixed';
}

describe('bytes', () => {
  test('unsynced ones are lost, kept and mixed by a power cut, sectors stay whole', async () => {
    const counts = await outcomes(async (fixture) => describeSectors(await overwritten(fixture, 'nothing')));
    for (const outcome of ['lost', 'kept', 'mixed']) expect(counts[outcome] ?? 0).toBeGreaterThan(2);
    expect(counts['torn'] ?? 0).toBe(0);
  });

  test('synced ones are always kept', async () => {
    const counts = await outcomes(async (fixture) => describeSectors(await overwritten(fixture, 'sync')));
    expect(counts).toEqual({ kept: seedCount });
  });

  test('a kill loses nothing that was completed', async () => {
    const counts = await outcomes(async ({ world, host, storage }) => {
      await world.drive(storage.open('/f', 'create').then((file) => file.write(new Uint8Array(fileBytes).fill(1), 0)));
      host.kill();
      return describeSectors(host.disk.peek('/f'));
    });
    expect(counts).toEqual({ kept: seedCount });
  });

  test('a write under way at a kill is there, in part, or not; it never completes', async () => {
    const counts = await outcomes(async ({ world, host, storage }) => {
      const file = await world.drive(storage.open('/f', 'create'));
      let completed = false;
      void file.write(new Uint8Array(fileBytes).fill(1), 0).then(() => (completed = true));
      host.kill();
      await world.run();
      expect(completed).toBe(false);
      const { length } = host.disk.peek('/f');
      return length === 0 ? 'none' : length === fileBytes ? 'all' : 'part';
    });
    for (const outcome of ['none', 'all', 'part']) expect(counts[outcome] ?? 0).toBeGreaterThan(10);
  });

  test('a sync covers only what was complete when it was asked for', async () => {
    const counts = await outcomes(async ({ world, host, storage }) => {
      const file = await world.drive(storage.open('/f', 'create'));
      await world.drive(storage.syncDirectory('/'));
      const sync = file.datasync();
      await world.drive(Promise.all([sync, file.write(new Uint8Array(sector).fill(1), 0)]));
      host.powerCut();
      return host.disk.peek('/f').some((byte) => byte === 1) ? 'kept' : 'lost';
    });
    expect(counts['lost'] ?? 0).toBeGreaterThan(10);
  });

  test('a buffer changed before its write completed is written changed', async () => {
    const world = new SimWorld(1);
    const host = world.addHost('a');
    const file = await world.drive(host.start().storage.open('/f', 'create'));
    const buffer = new Uint8Array(10).fill(1);
    const write = file.write(buffer, 0);
    buffer.fill(2);
    await world.drive(write);
    expect(host.disk.peek('/f')[0]).toBe(2);
  });
});

describe('a failed datasync', () => {
  async function failedSync({ world, host, storage }: Fixture): Promise<string> {
    const file = await world.drive(storage.open('/f', 'create'));
    await world.drive(storage.syncDirectory('/'));
    host.disk.failNext({ kind: 'datasync' });
    await world.drive(file.write(new Uint8Array(fileBytes).fill(1), 0));
    await expect(world.drive(file.datasync())).rejects.toMatchObject({ code: 'storage-io', path: '/f' });
    const cached = host.disk.peek('/f').reduce((sum, byte) => sum + byte, 0) === fileBytes ? 'cached' : 'evicted';
    await world.drive(file.datasync());
    host.powerCut();
    const durable = host.disk.peek('/f').reduce((sum, byte) => sum + byte, 0) === fileBytes ? 'kept' : 'lost';
    return `${cached} ${durable}`;
  }

  test('loses bytes that reads still show, and the next sync does not bring them back', async () => {
    const counts = await outcomes(failedSync);
    for (const outcome of ['cached lost', 'evicted lost', 'cached kept'])
      expect(counts[outcome] ?? 0).toBeGreaterThan(5);
  });
});

describe('names', () => {
  async function create({ world, storage }: Fixture, path: string, content: number): Promise<void> {
    const file = await world.drive(storage.open(path, 'create'));
    await world.drive(file.write(new Uint8Array(4).fill(content), 0));
    await world.drive(file.datasync());
  }

  test('a created file may vanish whole until its directory is synced', async () => {
    const unsynced = await outcomes(async (fixture) => {
      await create(fixture, '/f', 1);
      fixture.host.powerCut();
      return fixture.host.disk.tree.paths().join();
    });
    expect(Object.keys(unsynced).sort()).toEqual(['', '/f']);
    const synced = await outcomes(async (fixture) => {
      await create(fixture, '/f', 1);
      await fixture.world.drive(fixture.storage.syncDirectory('/'));
      fixture.host.powerCut();
      return fixture.host.disk.tree.paths().join();
    });
    expect(synced).toEqual({ '/f': seedCount });
  });

  test('a removed file may come back until its directory is synced', async () => {
    for (const sync of [false, true]) {
      const counts = await outcomes(async (fixture) => {
        await create(fixture, '/f', 1);
        await fixture.world.drive(fixture.storage.syncDirectory('/'));
        await fixture.world.drive(fixture.storage.remove('/f'));
        if (sync) await fixture.world.drive(fixture.storage.syncDirectory('/'));
        fixture.host.powerCut();
        return fixture.host.disk.tree.paths().join();
      });
      expect(Object.keys(counts).sort()).toEqual(sync ? [''] : ['', '/f']);
    }
  });

  test.each([
    ['in one directory', '/x/old', [] as string[]],
    ['across directories', '/y/old', []],
    ['across directories, the receiver synced', '/y/old', ['/y']],
    ['across directories, the giver synced', '/y/old', ['/x']],
  ])('a rename %s: old or new, never neither', async (_title, to, synced) => {
    const counts = await outcomes(async (fixture) => {
      const { world, host, storage } = fixture;
      await world.drive(Promise.all([storage.makeDirectory('/x'), storage.makeDirectory('/y')]));
      await create(fixture, '/x/new', 2);
      await create(fixture, to, 1);
      await world.drive(Promise.all([storage.syncDirectory('/x'), storage.syncDirectory('/y')]));
      await world.drive(storage.rename('/x/new', to));
      for (const directory of synced) await world.drive(storage.syncDirectory(directory));
      host.powerCut();
      return host.disk.tree
        .paths()
        .map((path) => `${path}=${host.disk.peek(path)[0]}`)
        .join();
    });
    const [before, after, both] = [`/x/new=2,${to}=1`, `${to}=2`, `/x/new=2,${to}=2`];
    const possible = synced.includes('/x') ? [after] : synced.includes('/y') ? [both, after] : [before, after];
    expect(Object.keys(counts).sort()).toEqual(possible.sort());
  });

  test('a made directory is durable at once, a removed tree may come back in part', async () => {
    const counts = await outcomes(async (fixture) => {
      const { world, host, storage } = fixture;
      await world.drive(storage.makeDirectory('/x/y'));
      for (const name of ['a', 'b']) await create(fixture, `/x/y/${name}`, 1);
      await world.drive(storage.syncDirectory('/x/y'));
      await world.drive(storage.removeTree('/x'));
      host.powerCut();
      return host.disk.tree.paths().length.toString();
    });
    for (const outcome of ['0', '2']) expect(counts[outcome] ?? 0).toBeGreaterThan(5);
  });
});

describe('space and errors', () => {
  test('a full disk fails with storage-full, gives space back, and never overruns', async () => {
    const world = new SimWorld(1);
    const host = world.addHost('a');
    const { storage } = host.start();
    host.disk.capacityBytes = 64 * 1024;
    const file = await world.drive(storage.open('/f', 'create'));
    await world.drive(file.write(new Uint8Array(60 * 1024), 0));
    await expect(world.drive(file.write(new Uint8Array(8 * 1024), 60 * 1024))).rejects.toMatchObject({
      code: 'storage-full',
    });
    expect(await world.drive(storage.freeBytes('/'))).toBeGreaterThanOrEqual(0);
    await world.drive(file.write(new Uint8Array(1024).fill(1), 0));
    await world.drive(storage.remove('/f'));
    await world.drive(file.close());
    expect(await world.drive(storage.freeBytes('/'))).toBe(64 * 1024);
  });

  test('a failed write leaves a part, a failed read nothing; chances and one-shots count right', async () => {
    const world = new SimWorld(2);
    const host = world.addHost('a');
    const file = await world.drive(host.start().storage.open('/f', 'create'));
    host.disk.failNext({ kind: 'write', skipCount: 1, matches: (path) => path === '/f' });
    await world.drive(file.write(new Uint8Array(4), 0));
    await expect(world.drive(file.write(new Uint8Array(4), 4))).rejects.toMatchObject({ code: 'storage-io' });
    await world.drive(file.write(new Uint8Array(4), 4));
    host.disk.errorChance = { read: 1 };
    await expect(world.drive(file.read(new Uint8Array(1), 0))).rejects.toMatchObject({ code: 'storage-io' });
    host.disk.clearFaults();
    expect(await world.drive(file.read(new Uint8Array(1), 0))).toBe(1);
  });

  test('a flipped bit stays flipped after a power cut', async () => {
    const world = new SimWorld(3);
    const host = world.addHost('a');
    const { storage } = host.start();
    const file = await world.drive(storage.open('/f', 'create'));
    await world.drive(file.write(new Uint8Array(5000), 0));
    await world.drive(file.datasync());
    await world.drive(storage.syncDirectory('/'));
    const flipped = host.disk.flipRandomBit((path) => path === '/f')!;
    host.powerCut();
    const bytes = host.disk.peek('/f');
    expect([1, 2, 4, 8, 16, 32, 64, 128]).toContain(bytes[flipped.offsetBytes]);
    expect(bytes.filter((byte) => byte !== 0)).toHaveLength(1);
    expect(host.disk.flipRandomBit(() => false)).toBeUndefined();
  });

  test('a hung disk completes nothing until it goes on', async () => {
    const world = new SimWorld(4);
    const host = world.addHost('a');
    const opened = host.start().storage.open('/f', 'create');
    let done = false;
    void opened.then(() => (done = true));
    host.disk.hang();
    await world.run({ untilMs: 60_000 });
    expect(done).toBe(false);
    host.disk.unhang();
    await world.drive(opened);
    expect(world.nowMs).toBeLessThan(60_002);
  });
});
