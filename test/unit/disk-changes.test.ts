import { beforeEach, describe, expect, test } from '@jest/globals';
import type { DiskChange } from '../../agent/src/block/record.js';
import type { Hello, Welcome } from '../../agent/src/stream/messages.js';
import { disksAt, disksKept, disksPast } from '../../agent/src/target/disk-set.js';
import { TargetGroup, type GroupOptions } from '../../agent/src/target/group.js';
import type { GroupSettings } from '../../agent/src/target/settings.js';
import type { SimHost } from '../sim/world/sim-host.js';
import { SimWorld } from '../sim/world/sim-world.js';

const MiB = 1024 * 1024;
const directory = '/data/groups/erp';

/** A target group on a simulated disk, asked by a source `a` without a network. */
class Bench {
  readonly events: string[] = [];
  readonly world = new SimWorld(7);
  private readonly host: SimHost = this.world.addHost('t');
  group!: TargetGroup;
  private incarnation = 0;

  async create(settings: Partial<GroupSettings> = {}): Promise<void> {
    const disks = ['vda', 'vdb'].map((name) => ({ name, sizeBytes: MiB, stream: 'a' }));
    this.host.start();
    this.group = await this.world.drive(
      TargetGroup.create(this.options(), { name: 'erp', streams: ['a', 'b'], disks, settings }),
      10_000,
    );
  }

  async reopen(): Promise<void> {
    this.host.powerCut();
    this.host.start();
    this.group = await this.world.drive(TargetGroup.open(this.options()), 10_000);
  }

  private options(): GroupOptions {
    const { storage, clock, random } = this.host.process!;
    const emit = (code: string): void => void this.events.push(code);
    const views = { opened: () => undefined, closing: () => Promise.resolve(), clientCount: () => 0 };
    return { storage, clock, random, events: { emit }, directory, views, onFailed: () => undefined };
  }

  /** A new start of the source with these disks. */
  start(disks: Hello['disks'], disksRemoved: string[] = []): Promise<Pick<Welcome, 'disks' | 'disksRefused'>> {
    this.incarnation++;
    return this.ask(disks, false, disksRemoved);
  }

  ask(disks: Hello['disks'], resumed = true, disksRemoved: string[] = [], stream = 0) {
    const hello = { disks, disksRemoved } as unknown as Hello;
    return this.world.drive(this.group.disks.admit(stream, hello, this.incarnation, resumed), 10_000);
  }

  say(change: DiskChange, sequence: number, stream = 0): Promise<void> {
    return this.world.drive(
      this.group.disks.apply(stream, { incarnation: this.incarnation, sequence }, change),
      10_000,
    );
  }

  /** `name:MiB` of the checkpoint at that sequence of the present start; `-` behind a missing one. */
  at(sequence: number, incarnation = this.incarnation): string[] {
    return disksAt(this.group.context.manifest.state, { 0: { incarnation, sequence } }).map(
      ({ name, sizeBytes, missing }) => `${name}:${sizeBytes / MiB}${missing === true ? '-' : ''}`,
    );
  }
}

let bench: Bench;
const vda = { name: 'vda', sizeBytes: MiB };
const vdb = { name: 'vdb', sizeBytes: MiB };

beforeEach(async () => {
  bench = new Bench();
  await bench.create({ diskSizeMax: 8 * MiB });
});

describe('a new start of the source', () => {
  test('the first sync goes to empty images, a later one is compared', async () => {
    const told = await bench.start([vda, vdb]);
    expect(told.disks.map(({ index, sync }) => [index, sync])).toEqual([
      [0, 'initial'],
      [1, 'initial'],
    ]);
    expect(told.disksRefused).toBeUndefined();
  });

  test('has a disk that grew and one that is new', async () => {
    await bench.start([vda, vdb]);
    const told = await bench.start([{ ...vda, sizeBytes: 2 * MiB }, vdb, { name: 'vdc', sizeBytes: 3 * MiB }]);
    expect(told.disks.map(({ name, sizeBytes, sizeBefore }) => [name, sizeBytes! / MiB, sizeBefore! / MiB])).toEqual([
      ['vda', 2, 1],
      ['vdb', 1, 1],
      ['vdc', 3, NaN],
    ]);
    expect(bench.at(9, 1)).toEqual(['vda:1', 'vdb:1']);
    expect(bench.at(0, 2)).toEqual(['vda:2', 'vdb:1', 'vdc:3']);
    expect(bench.group.context.replicas.replica.disk(0).sizeBytes).toBe(2 * MiB);
  });

  test('does not name a disk: missing, until it is there again or given up', async () => {
    await bench.start([vda, vdb]);
    await bench.start([vda]);
    expect(bench.at(5)).toEqual(['vda:1', 'vdb:1-']);
    expect(bench.events).toContain('disk-missing');
    await bench.start([vda, vdb]);
    expect(bench.at(5)).toEqual(['vda:1', 'vdb:1']);
    await expect(bench.group.forgetDisk('vdb')).rejects.toMatchObject({ code: 'illegal-state' });
    await bench.start([vda]);
    await bench.world.drive(bench.group.forgetDisk('vdb'), 5000);
    await bench.world.drive(bench.group.forgetDisk('vdb'), 5000);
    expect(bench.at(5)).toEqual(['vda:1']);
    expect(bench.at(5, 3)).toEqual(['vda:1', 'vdb:1']);
    await expect(bench.group.forgetDisk('vdx')).rejects.toMatchObject({ code: 'disk-unknown' });
  });

  test('names a disk that left, and another of the same name', async () => {
    await bench.start([vda, vdb]);
    const told = await bench.start([vda, { name: 'vdb', sizeBytes: MiB / 2 }], ['vdb']);
    expect(told.disks.map(({ index, sync }) => [index, sync])).toEqual([
      [0, 'initial'],
      [2, 'initial'],
    ]);
    expect(bench.at(1)).toEqual(['vda:1', 'vdb:0.5']);
    expect(bench.at(1, 1)).toEqual(['vda:1', 'vdb:1']);
  });

  test('has a smaller disk: refused, missing, the others go on', async () => {
    const told = await bench.start([vda, { ...vdb, sizeBytes: MiB / 2 }]);
    expect(told.disks.map(({ name }) => name)).toEqual(['vda']);
    expect(told.disksRefused).toEqual([{ name: 'vdb', reason: expect.stringContaining('fewer than') }]);
    expect(bench.at(1)).toEqual(['vda:1', 'vdb:1-']);
  });
});

describe('a change while the incarnation goes on', () => {
  test('takes effect from its place in the stream on, in the images too, and after a crash', async () => {
    await bench.start([vda, vdb]);
    const told = await bench.ask([
      { ...vda, sizeBytes: 4 * MiB, index: 0 },
      { ...vdb, index: 1 },
      { name: 'vdc', sizeBytes: 2 * MiB },
    ]);
    expect(told.disks).toEqual([
      { name: 'vda', index: 0, sync: 'none', sizeBytes: 4 * MiB },
      { name: 'vdb', index: 1, sync: 'none', sizeBytes: MiB },
      { name: 'vdc', index: 2, sync: 'initial', sizeBytes: 2 * MiB },
    ]);
    // Agreed, and nothing said yet.
    expect(bench.at(50)).toEqual(['vda:1', 'vdb:1']);
    await bench.say({ change: 'add', disk: 2, name: 'vdc', sizeBytes: 2 * MiB }, 10);
    await bench.say({ change: 'grow', disk: 0, sizeBytes: 4 * MiB }, 20);
    await bench.say({ change: 'remove', disk: 1 }, 30);
    const look = (): string[][] => [9, 10, 20, 30].map((sequence) => bench.at(sequence));
    const seen = [
      ['vda:1', 'vdb:1'],
      ['vda:1', 'vdb:1', 'vdc:2'],
      ['vda:4', 'vdb:1', 'vdc:2'],
      ['vda:4', 'vdc:2'],
    ];
    expect(look()).toEqual(seen);
    await bench.reopen();
    expect(look()).toEqual(seen);
    expect(bench.group.context.replicas.replica.diskIndexes).toEqual([0, 1, 2]);
    expect(bench.group.context.replicas.replica.disk(0).sizeBytes).toBe(4 * MiB);
    // Sent again after a cut: nothing changes.
    await bench.say({ change: 'add', disk: 2, name: 'vdc', sizeBytes: 2 * MiB }, 10);
    await bench.say({ change: 'remove', disk: 1 }, 30);
    expect(look()).toEqual(seen);
  });

  test('an index that was given is given again to the same disk, to no other, and never after its use', async () => {
    await bench.start([vda, vdb]);
    const ask = async (name: string, stream = 0): Promise<number | undefined> =>
      (await bench.ask([{ name, sizeBytes: MiB }], true, [], stream)).disks[0]?.index;
    expect(await ask('vdc')).toBe(2);
    await bench.reopen();
    expect([await ask('vdc'), await ask('vdd', 1)]).toEqual([2, 3]);
    await bench.say({ change: 'add', disk: 2, name: 'vdc', sizeBytes: MiB }, 5);
    await bench.say({ change: 'remove', disk: 2 }, 6);
    expect(await ask('vdc')).toBe(4);
  });

  test('another disk of the name has an index of its own when the first was given up, or is still on its way', async () => {
    await bench.start([vda, vdb]);
    const asked = { name: 'vdc', sizeBytes: 3 * MiB };
    const index = async (disk: Hello['disks'][number]): Promise<number | undefined> => {
      const { disks } = await bench.ask([disk]);
      return disks.find(({ name }) => name === 'vdc')?.index;
    };
    expect(await index(asked)).toBe(2);
    // The welcome was lost, the disk removed; the new one is smaller.
    expect(await index({ ...asked, sizeBytes: 2 * MiB })).toBe(3);
    await bench.say({ change: 'add', disk: 3, name: 'vdc', sizeBytes: 2 * MiB }, 5);
    await bench.say({ change: 'remove', disk: 3 }, 6);
    expect(await index(asked)).toBe(4);
    // Added and removed by records that have not arrived yet.
    expect(await index({ ...asked, formerIndexes: [3, 4] })).toBe(5);
    await bench.say({ change: 'add', disk: 4, name: 'vdc', sizeBytes: 3 * MiB }, 7);
    await bench.say({ change: 'remove', disk: 4 }, 8);
    await bench.say({ change: 'add', disk: 5, name: 'vdc', sizeBytes: 3 * MiB }, 9);
    expect(bench.at(9)).toEqual(['vda:1', 'vdb:1', 'vdc:3']);
  });

  test('a missing disk is there again', async () => {
    await bench.start([vda]);
    const told = await bench.ask([{ ...vda, index: 0 }, vdb]);
    expect(told.disks[1]).toEqual({ name: 'vdb', index: 1, sync: 'delta', sizeBytes: MiB });
    await bench.say({ change: 'add', disk: 1, name: 'vdb', sizeBytes: MiB }, 7);
    expect([bench.at(6), bench.at(7)]).toEqual([
      ['vda:1', 'vdb:1-'],
      ['vda:1', 'vdb:1'],
    ]);
  });

  test.each<[string, DiskChange, number]>([
    ['a disk that was not given', { change: 'add', disk: 9, name: 'x', sizeBytes: MiB }, 0],
    ['a disk that is there', { change: 'add', disk: 0, name: 'vda', sizeBytes: MiB }, 0],
    ['less', { change: 'grow', disk: 0, sizeBytes: 512 }, 0],
    ["another stream's", { change: 'remove', disk: 0 }, 1],
    ['nonsense', { change: 'explode' } as unknown as DiskChange, 0],
  ])('a stream that says %s is refused', async (_what, change, stream) => {
    await bench.start([vda, vdb]);
    await expect(bench.say(change, 3, stream)).rejects.toMatchObject({ code: 'protocol-error' });
  });
});

describe('what a person allows', () => {
  test('newDisks: refuse leaves a new disk out; a declared one is taken', async () => {
    bench = new Bench();
    await bench.create({ newDisks: 'refuse', declaredDisks: ['vda', 'vdb', 'vdc'] });
    const told = await bench.start([vda, vdb, { ...vda, name: 'vdc' }, { ...vda, name: 'vdd' }]);
    expect(told.disks.map(({ name }) => name)).toEqual(['vda', 'vdb', 'vdc']);
    expect(told.disksRefused).toEqual([{ name: 'vdd', reason: expect.stringContaining('newDisks'), leftOut: true }]);
  });

  test('diskSizeMax bounds growth and new disks', async () => {
    await bench.start([vda, vdb]);
    const told = await bench.ask([
      { ...vda, sizeBytes: 9 * MiB, index: 0 },
      { name: 'vdc', sizeBytes: 9 * MiB },
    ]);
    expect(told.disks).toEqual([{ name: 'vda', index: 0, sync: 'none', sizeBytes: MiB }]);
    expect(told.disksRefused?.map(({ name, leftOut }) => [name, leftOut])).toEqual([
      ['vda', undefined],
      ['vdc', undefined],
    ]);
  });

  test('a name belongs to one stream', async () => {
    await bench.start([vda, vdb]);
    const told = await bench.ask([vda], true, [], 1);
    expect(told.disksRefused?.[0]?.reason).toContain('a sends a disk of that name');
  });
});

describe('a disk whose VM went to another host', () => {
  const sequences = (a: number, b: number): Record<number, { incarnation: number; sequence: number }> => ({
    0: { incarnation: 1, sequence: a },
    1: { incarnation: 1, sequence: b },
  });
  const senders = (a: number, b: number): string[] => {
    const { state } = bench.group.context.manifest;
    return disksAt(state, sequences(a, b)).map(
      ({ name, stream, missing }) => `${name} ${state.streams.get(stream)}${missing === true ? '-' : ''}`,
    );
  };
  const [a, b] = [0, 1];

  test('is missing until the other source sends it: the same index, compared, with its history', async () => {
    await bench.start([vda, vdb]);
    const early = await bench.ask([vda], true, [], b);
    expect(early.disks).toEqual([]);
    expect(early.disksRefused).toEqual([
      { name: 'vda', reason: expect.stringContaining('a sends a disk of that name') },
    ]);

    await bench.say({ change: 'leave', disk: 0 }, 10, a);
    expect(senders(9, 5)).toEqual(['vda a', 'vdb a']);
    expect(senders(10, 5)).toEqual(['vda a-', 'vdb a']);

    const told = await bench.ask([{ ...vda, sizeBytes: 2 * MiB }], true, [], b);
    expect(told.disks).toEqual([{ name: 'vda', index: 0, sync: 'delta', sizeBytes: 2 * MiB }]);
    expect(senders(10, 5)).toEqual(['vda a-', 'vdb a']);
    // At the place in its own stream that its giver's record has in the other.
    await bench.say({ change: 'add', disk: 0, name: 'vda', sizeBytes: 2 * MiB }, 10, b);
    await bench.reopen();
    expect(senders(9, 5)).toEqual(['vda a', 'vdb a']);
    expect(senders(12, 9)).toEqual(['vda a-', 'vdb a']);
    expect(senders(12, 10)).toEqual(['vda b', 'vdb a']);
    await bench.say({ change: 'leave', disk: 0 }, 10, a);
    expect(senders(12, 10)).toEqual(['vda b', 'vdb a']);

    // And back.
    await bench.say({ change: 'leave', disk: 0 }, 20, b);
    expect(
      (
        await bench.ask([
          { ...vda, sizeBytes: 2 * MiB, formerIndexes: [0] },
          { ...vdb, index: 1 },
        ])
      ).disks,
    ).toEqual([
      { name: 'vda', index: 0, sync: 'delta', sizeBytes: 2 * MiB },
      { name: 'vdb', index: 1, sync: 'none', sizeBytes: MiB },
    ]);
    await bench.say({ change: 'add', disk: 0, name: 'vda', sizeBytes: 2 * MiB }, 30, a);
    expect(senders(30, 20)).toEqual(['vda a', 'vdb a']);
    expect(senders(12, 10)).toEqual(['vda b', 'vdb a']);
  });

  test('a start of its source without it gives it up; a new start of the other takes it', async () => {
    await bench.start([vda, vdb]);
    await bench.ask([vdb], false);
    const told = await bench.ask([vda], false, [], b);
    expect(told.disks).toMatchObject([{ name: 'vda', index: 0, sizeBytes: MiB }]);
    expect(senders(0, 0)).toEqual(['vda b', 'vdb a']);
    // Its first source may not send it beside the other.
    const again = await bench.ask([vda, vdb], false);
    expect(again.disksRefused).toEqual([
      { name: 'vda', reason: expect.stringContaining('b sends a disk of that name') },
    ]);
  });

  test('two claim it: the first record counts, the other begins anew', async () => {
    await bench.start([vda, vdb]);
    await bench.say({ change: 'leave', disk: 0 }, 10, a);
    await bench.ask([vda], true, [], b);
    await bench.ask([{ ...vda, formerIndexes: [0] }]);
    // Its connection is lost before its record arrived: it has the index.
    expect((await bench.ask([{ ...vda, index: 0 }], true, [], b)).disks).toMatchObject([{ index: 0, sync: 'none' }]);
    await bench.say({ change: 'add', disk: 0, name: 'vda', sizeBytes: MiB }, 11, a);
    await expect(bench.say({ change: 'add', disk: 0, name: 'vda', sizeBytes: MiB }, 3, b)).rejects.toMatchObject({
      code: 'protocol-error',
    });
    await expect(bench.ask([{ ...vda, index: 0 }], true, [], b)).rejects.toMatchObject({ code: 'durable-regression' });
    expect(senders(11, 3)).toEqual(['vda a', 'vdb a']);
  });

  test("one that its source has, but smaller, is nobody else's", async () => {
    await bench.start([vda, { ...vdb, sizeBytes: 4096 }]);
    const told = await bench.ask([vdb], true, [], b);
    expect(told.disks).toEqual([]);
  });
});

test('images of removed disks go when the replica is past them; the manifest forgets what nobody needs', async () => {
  await bench.start([vda, vdb]);
  await bench.say({ change: 'grow', disk: 0, sizeBytes: 2 * MiB }, 4);
  await bench.say({ change: 'remove', disk: 1 }, 5);
  const { manifest, replicas } = bench.group.context;
  const promote = async (sequence: number): Promise<void> => {
    const vector = { 0: { incarnation: 1, sequence } };
    const checkpoint = {
      ...{ id: `c${sequence}`, kind: 'crash' as const, sourceTimeMs: 0, complete: true, disksMissing: [], epoch: 1 },
      vector,
    };
    await bench.world.drive(manifest.append({ type: 'promoted', through: vector, checkpoint }), 5000);
    await bench.world.drive(bench.group.disks.sweep(), 5000);
  };
  await promote(4);
  expect(replicas.replica.diskIndexes).toEqual([0, 1]);
  await promote(5);
  expect(replicas.replica.diskIndexes).toEqual([0]);
  expect([disksPast(manifest.state), disksKept(manifest.state).map(({ index }) => index)]).toEqual([[1], [0]]);
  await bench.world.drive(
    manifest.compact(0, () => true, 0),
    5000,
  );
  expect(manifest.state.diskChanges.map(({ index, removed }) => [index, removed])).toEqual([
    [0, false],
    [1, true],
  ]);
  await bench.reopen();
  expect(bench.group.context.replicas.replica.diskIndexes).toEqual([0]);
  expect(bench.at(5)).toEqual(['vda:2']);
  expect((await bench.ask([{ name: 'vdb', sizeBytes: MiB }])).disks[0]?.index).toBe(2);
});

test('a manifest from before disks could change opens with the disks it names', async () => {
  bench = new Bench();
  await bench.create();
  const { state } = bench.group.context.manifest;
  expect(
    state.diskChanges.every(({ since, pending, missing }) => [since, pending, missing].every((x) => x === undefined)),
  ).toBe(true);
  expect(disksAt(state, {}).map(({ name }) => name)).toEqual(['vda', 'vdb']);
});
