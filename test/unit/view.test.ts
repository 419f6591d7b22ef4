import { afterEach, describe, expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { plant, uprootAll } from '../../agent/src/core/planted.js';
import type { Random } from '../../agent/src/core/random.js';
import { Replica } from '../../agent/src/replica/replica.js';
import { copyDisk, digestsAt, hashView, materialiseDisk } from '../../agent/src/view/materialise.js';
import { View } from '../../agent/src/view/view.js';
import type { ViewDisk } from '../../agent/src/view/view-disk.js';
import type { SimProcess } from '../sim/world/sim-host.js';
import { bench, CutModel, intBelow, key } from './replica-fakes.js';

const sizeBytes = 3 * 1024 * 1024 + 2560;
const disks = [0, 1].map((index) => ({ index, sizeBytes }));

async function openReplica(process: SimProcess, encrypted: boolean, indexes: number[]): Promise<Replica> {
  const { storage, clock, random } = process;
  return Replica.open({ storage, clock, random, directory: 'g/replica', key: encrypted ? key : undefined }, indexes);
}

function openView(
  process: SimProcess,
  replica: Replica,
  cut: CutModel,
  encrypted: boolean,
  limit = 64 * 1024 * 1024,
  id = 'v',
): Promise<View> {
  const { storage, random } = process;
  return View.open({
    storage,
    random,
    directory: `g/views/${id}`,
    replica,
    cut: cut.cut(),
    disks,
    scratchLimitBytes: limit,
    key: encrypted ? key : undefined,
  });
}

const payload = (bytes: Uint8Array) => ({ bytes, retain: () => undefined, release: () => undefined });

async function setUp(
  process: SimProcess,
  encrypted: boolean,
): Promise<{ replica: Replica; base: Buffer[]; cut: CutModel }> {
  const { random } = process;
  const replica = await openReplica(process, encrypted, []);
  const base: Buffer[] = [];
  const cut = new CutModel();
  for (const { index } of disks) {
    const disk = await replica.create(index, `d${index}`, sizeBytes);
    const bytes = Buffer.alloc(sizeBytes);
    bytes.set(random.bytes(sizeBytes / 2), 65_536 * index);
    await disk.applyBase(0, bytes);
    await disk.flushBase();
    base.push(bytes);
    for (let i = 0; i < 20; i++) {
      const length = 512 * (1 + intBelow(random, 40));
      const offset = Math.min(512 * intBelow(random, sizeBytes / 512), sizeBytes - length);
      cut.write(index, sizeBytes, offset, i % 3 === 0 ? length : random.bytes(length));
    }
  }
  return { replica, base, cut };
}

interface Change {
  offset: number;
  bytes: Buffer;
  zero: boolean;
}

function randomChange(random: Random): Change {
  const kind = random.float();
  const most = kind < 0.1 ? 300_000 : kind < 0.5 ? 4096 : 20_000;
  let length = Math.max(1, intBelow(random, most));
  let offset = intBelow(random, sizeBytes - length);
  if (random.float() < 0.7) {
    offset -= offset % 4096;
    length = Math.min(Math.ceil(length / 4096) * 4096, sizeBytes - offset);
  }
  const zero = random.float() < 0.3;
  return { offset, bytes: zero ? Buffer.alloc(length) : Buffer.from(random.bytes(length)), zero };
}

function apply(disk: ViewDisk, change: Change, fua = false): Promise<void> {
  const { offset, bytes, zero } = change;
  return zero ? disk.zero(offset, bytes.length, true, fua) : disk.write(offset, payload(bytes), fua);
}

async function contents(disk: {
  sizeBytes: number;
  read(target: Uint8Array, offset: number): Promise<void>;
}): Promise<Buffer> {
  const found = Buffer.alloc(disk.sizeBytes);
  for (let at = 0; at < found.length; at += 1_000_000) await disk.read(found.subarray(at, at + 1_000_000), at);
  return found;
}

afterEach(() => uprootAll());

describe.each([false, true])('view, encrypted %s', (encrypted) => {
  test('several views are independent and equal plain arrays, before, during and after a promotion and a reopen', async () => {
    const { world, host, process } = bench(21);
    const models: Buffer[] = [];
    let cut = new CutModel();
    await world.drive(
      (async () => {
        const made = await setUp(process, encrypted);
        cut = made.cut;
        const { replica, base } = made;
        const older = cut.clone();
        for (let i = 0; i < 20; i++)
          cut.write(i % 2, sizeBytes, 4096 * intBelow(process.random, 700), process.random.bytes(8192));
        const a = await openView(process, replica, cut, encrypted);
        const b = await openView(process, replica, cut, encrypted, undefined, 'b');
        for (const index of [0, 1]) models.push(cut.over(index, base[index]!));
        const untouched = models.map((model) => Buffer.from(model));
        const promotion = replica.promote(older.cut());
        for (let i = 0; i < 150; i++) {
          const index = intBelow(process.random, 2);
          const changes = [randomChange(process.random)];
          const { offset, bytes } = changes[0]!;
          await apply(a.disk(index), changes[0]!, i % 20 === 0);
          models[index]!.set(bytes, offset);
          const at = intBelow(process.random, sizeBytes - 30_000);
          const part = Buffer.alloc(1 + intBelow(process.random, 30_000));
          await a.disk(index).read(part, at);
          expect(part.equals(models[index]!.subarray(at, at + part.length))).toBe(true);
        }
        await promotion;
        for (const index of [0, 1]) {
          expect((await contents(a.disk(index))).equals(models[index]!)).toBe(true);
          expect((await contents(b.disk(index))).equals(untouched[index]!)).toBe(true);
          for (let at = 0; at < sizeBytes;) {
            for (const extent of await a.disk(index).extents(at, sizeBytes - at, 7)) {
              if (extent.zero)
                expect(models[index]!.subarray(at, at + extent.lengthBytes).every((byte) => byte === 0)).toBe(true);
              at += extent.lengthBytes;
            }
          }
        }
        expect((await hashView(a)).get(0)).toBe(createHash('sha256').update(untouched[0]!).digest('hex'));
        const full = await digestsAt(a.disk(0), 0, 49);
        expect(full.length).toBe(49 * 16);
        await b.discard();
        expect(await process.storage.list('g/views/b')).toEqual([]);
        await a.flush();
      })(),
    );
    host.kill();
    const next = host.start();
    await world.drive(
      (async () => {
        const replica = await openReplica(next, encrypted, [0, 1]);
        const again = await openView(next, replica, cut, encrypted);
        const progress: number[] = [];
        await next.storage.makeDirectory('out');
        await materialiseDisk({
          view: again,
          disk: 1,
          storage: next.storage,
          path: 'out/1.raw',
          onProgress: (done) => progress.push(done),
        });
        expect(progress.at(-1)).toBe(sizeBytes);
        expect(Buffer.from(host.disk.peek('out/1.raw')).equals(models[1]!)).toBe(true);
        expect((await contents(again.disk(0))).equals(models[0]!)).toBe(true);
        const signal = AbortSignal.abort(new Error('stop'));
        await expect(
          copyDisk({ source: again.disk(0), storage: next.storage, path: 'out/0.raw', signal }),
        ).rejects.toThrow('stop');
        expect(await next.storage.exists('out/0.raw')).toBe(false);
      })(),
    );
  });

  test('a missing disk is left out', async () => {
    const { world, process } = bench(3);
    await world.drive(
      (async () => {
        const { replica, cut } = await setUp(process, encrypted);
        const { storage, random } = process;
        const view = await View.open({
          storage,
          random,
          directory: 'g/views/m',
          replica,
          cut: cut.cut(),
          disks: disks.slice(0, 1),
          scratchLimitBytes: 1e6,
        });
        expect([...view.disks.keys()]).toEqual([0]);
        await view.discard();
        expect(cut.released).toBe(1);
      })(),
    );
  });

  test('a full scratch is ENOSPC, flush still works, freed room is used again', async () => {
    const { world, process } = bench(4);
    await world.drive(
      (async () => {
        const { replica, cut, base } = await setUp(process, encrypted);
        const view = await openView(process, replica, cut, encrypted, 512 * 1024);
        const disk = view.disk(0);
        const model = cut.over(0, base[0]!);
        let stopped: unknown;
        for (let at = 0; at < 400 && stopped === undefined; at++) {
          const bytes = Buffer.from(process.random.bytes(4096));
          await disk.write(at * 4096, payload(bytes), false).then(
            () => model.set(bytes, at * 4096),
            (error: unknown) => (stopped = error),
          );
        }
        expect(stopped).toMatchObject({ code: 'ENOSPC' });
        await disk.flush();
        expect(view.scratchUsedBytes).toBeLessThanOrEqual(512 * 1024);
        await disk.trim(0, 40 * 4096, false);
        model.fill(0, 0, 40 * 4096);
        for (let at = 200; at < 230; at++) {
          const bytes = Buffer.from(process.random.bytes(4096));
          await disk.write(at * 4096, payload(bytes), false);
          model.set(bytes, at * 4096);
        }
        await disk.flush();
        expect((await contents(disk)).equals(model)).toBe(true);
      })(),
    );
  });

  test('a failed fdatasync is EIO until reopened; a map without room is ENOSPC and can be repeated', async () => {
    const { world, host, process } = bench(8);
    await world.drive(
      (async () => {
        const { replica, cut } = await setUp(process, encrypted);
        const view = await openView(process, replica, cut, encrypted);
        const disk = view.disk(0);
        const first = Buffer.from(process.random.bytes(8192));
        await disk.write(0, payload(first), true);
        host.disk.failNext({ kind: 'write', matches: (path) => path.includes('scratch.map'), code: 'storage-full' });
        await disk.write(65_536, payload(first), false);
        await expect(disk.flush()).rejects.toMatchObject({ code: 'ENOSPC' });
        await disk.flush();
        host.disk.failNext({ kind: 'datasync', code: 'storage-full' });
        await disk.write(131_072, payload(first), false);
        await expect(disk.flush()).rejects.toMatchObject({ code: 'EIO' });
        await expect(disk.flush()).rejects.toMatchObject({ code: 'EIO' });
        await expect(disk.write(0, payload(first), false)).rejects.toMatchObject({ code: 'EIO' });
        expect(view.failed).toBe(true);
        await view.release();
        const again = await openView(process, replica, cut, encrypted);
        const found = Buffer.alloc(8192);
        await again.disk(0).read(found, 65_536);
        expect(found.equals(first)).toBe(true);
        await again.flush();
      })(),
    );
  });
});

/** Runs changes and flushes, dies after the `io`-th I/O; true when the reopened view breaks the rules. */
async function crashRound(
  seed: number,
  io: number,
  kind: 'kill' | 'power',
  encrypted: boolean,
): Promise<'alive' | 'good' | 'bad'> {
  const { world, host, process } = bench(seed);
  let cut = new CutModel();
  const history: { at: number; bytes: Buffer }[] = [];
  let flushedCount = 0;
  let start: Buffer = Buffer.alloc(0);
  await world.drive(
    (async () => {
      const made = await setUp(process, encrypted);
      cut = made.cut;
      start = cut.over(0, made.base[0]!);
      const view = await openView(process, made.replica, cut, encrypted);
      const disk = view.disk(0);
      host.crashAfterIo(io, kind);
      void (async () => {
        for (let i = 0; i < 30; i++) {
          // A narrow range, so that slots are freed, used again and overwritten in place.
          const change = randomChange(process.random);
          change.offset %= 262_144;
          history.push({ at: change.offset, bytes: change.bytes });
          await apply(disk, change);
          if (i % 3 === 2) {
            const count = history.length;
            await disk.flush();
            flushedCount = count;
          }
        }
      })().catch(() => undefined);
    })(),
  );
  await world.run();
  if (host.process !== undefined) return 'alive';
  const next = host.start();
  return world.drive(
    (async () => {
      const replica = await openReplica(next, encrypted, [0, 1]);
      const view = await openView(next, replica, cut, encrypted);
      const found = await contents(view.disk(0));
      const known = Buffer.from(start);
      for (const { at, bytes } of history.slice(0, flushedCount)) known.set(bytes, at);
      for (let at = 0; at < sizeBytes; at++) {
        if (found[at] === known[at]) continue;
        const later = history
          .slice(flushedCount)
          .some((h) => at >= h.at && at < h.at + h.bytes.length && h.bytes[at - h.at] === found[at]);
        if (!later) return 'bad' as const;
      }
      // Served again: exactly the same, also after a power cut.
      await view.release();
      return 'good' as const;
    })(),
  );
}

describe('scratch after a crash at every I/O', () => {
  test.each([
    ['kill', false],
    ['power', false],
    ['power', true],
  ] as const)('%s, encrypted %s', async (kind, encrypted) => {
    for (let io = 1; ; io += encrypted ? 3 : 1) {
      const verdict = await crashRound(9000 + io, io, kind, encrypted);
      if (verdict === 'alive') break;
      if (verdict === 'bad') throw new Error(`seed ${9000 + io}, crash after I/O ${io}: bytes that were never there`);
    }
  });

  test('planted: the map before its data', async () => {
    plant('scratch-map-before-data');
    let bad = 0;
    for (let seed = 0; seed < 60 && bad === 0; seed++) {
      if ((await crashRound(100 + seed, 4 + (seed % 40), 'power', false)) === 'bad') bad++;
    }
    expect(bad).toBeGreaterThan(0);
  });
});
