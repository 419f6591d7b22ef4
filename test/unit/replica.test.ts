import { afterEach, describe, expect, test } from '@jest/globals';
import { plant, uprootAll } from '../../agent/src/core/planted.js';
import type { Random } from '../../agent/src/core/random.js';
import { isTidemarkError } from '../../agent/src/core/errors.js';
import { Replica } from '../../agent/src/replica/replica.js';
import { Scrubber } from '../../agent/src/replica/scrub.js';
import { chunkDigest } from '../../agent/src/replica/digest.js';
import type { SimProcess } from '../sim/world/sim-host.js';
import { bench, CutModel, intBelow, key } from './replica-fakes.js';

const sizeBytes = 20 * 65_536 + 12_288;

function open(process: SimProcess, encrypted: boolean, disks: number[], verifyIntervalMs = 0): Promise<Replica> {
  const { storage, clock, random } = process;
  return Replica.open(
    {
      storage,
      clock,
      random,
      directory: 'g/replica',
      cachePagesMax: 4,
      verifyIntervalMs,
      key: encrypted ? key : undefined,
    },
    disks,
  );
}

function randomCut(random: Random, count: number, disks = [0, 1]): CutModel {
  const cut = new CutModel();
  for (let i = 0; i < count; i++) {
    const length = 512 * (1 + intBelow(random, random.float() < 0.2 ? 400 : 16));
    const offset = Math.min(512 * intBelow(random, sizeBytes / 512), sizeBytes - length);
    const disk = disks[intBelow(random, disks.length)]!;
    cut.write(disk, sizeBytes, offset, random.float() < 0.25 ? length : random.bytes(length));
  }
  return cut;
}

async function base(replica: Replica, random: Random, index: number): Promise<Buffer> {
  const bytes = Buffer.alloc(sizeBytes);
  const disk = await replica.create(index, `disk-${index}`, sizeBytes);
  for (let at = 0; at < sizeBytes; at += 65_536) {
    if (random.float() < 0.4) continue;
    const part = random.bytes(Math.min(65_536, sizeBytes - at));
    bytes.set(part, at);
    await disk.applyBase(at, part);
  }
  await disk.flushBase();
  return bytes;
}

async function expectDisk(replica: Replica, index: number, expected: Buffer): Promise<void> {
  const found = Buffer.alloc(sizeBytes);
  await replica.disk(index).read(found, 0);
  expect(Buffer.compare(found, expected)).toBe(0);
}

afterEach(() => uprootAll());

describe.each([false, true])('replica, encrypted %s', (encrypted) => {
  test('base, promotion, reopen and digests equal a plain array', async () => {
    const { world, process } = bench(11);
    await world.drive(
      (async () => {
        const { random } = process;
        const replica = await open(process, encrypted, []);
        const models = [await base(replica, random, 0), await base(replica, random, 1)];
        for (let round = 0; round < 8; round++) {
          const cut = randomCut(random, 30);
          const result = await replica.promote(cut.cut());
          expect(result.damaged).toEqual([]);
          for (const index of [0, 1]) {
            models[index] = cut.over(index, models[index]!);
            await expectDisk(replica, index, models[index]);
          }
        }
        await replica.close();
        const again = await open(process, encrypted, [0, 1]);
        for (const index of [0, 1]) {
          await expectDisk(again, index, models[index]!);
          const digests = await again.disk(index).digestsOf(0, 21);
          for (let chunk = 0; chunk < 21; chunk++) {
            const bytes = models[index]!.subarray(chunk * 65_536, Math.min(sizeBytes, (chunk + 1) * 65_536));
            expect(Buffer.from(digests.subarray(chunk * 16, chunk * 16 + 16))).toEqual(Buffer.from(chunkDigest(bytes)));
          }
          for (let i = 0; i < 50; i++) {
            const offset = intBelow(random, sizeBytes - 5000);
            const part = Buffer.alloc(1 + intBelow(random, 5000));
            await again.disk(index).read(part, offset);
            expect(Buffer.compare(part, models[index]!.subarray(offset, offset + part.length))).toBe(0);
          }
        }
        await again.resize(0, sizeBytes + 1_000_000);
        const grown = Buffer.alloc(sizeBytes + 1_000_000, 1);
        await again.disk(0).read(grown, 0);
        expect(Buffer.compare(grown, Buffer.concat([models[0]!, Buffer.alloc(1_000_000)]))).toBe(0);
        await again.remove(1);
        expect(() => again.disk(1)).toThrow('no disk 1');
      })(),
    );
  });

  test.each(['power', 'kill'] as const)(
    'promotion cut by %s after every I/O is repaired by the same call',
    async (kind) => {
      for (let io = 1; ; io++) {
        const { world, host, process } = bench(1000 + io);
        let models: Buffer[] = [];
        let cut = new CutModel();
        await world.drive(
          (async () => {
            const replica = await open(process, encrypted, []);
            models = [await base(replica, process.random, 0), await base(replica, process.random, 1)];
            cut = randomCut(process.random, 12);
            host.crashAfterIo(io, kind);
            void replica.promote(cut.cut()).catch(() => undefined);
          })(),
        );
        await world.run();
        const died = host.process === undefined;
        if (!died) break;
        const next = host.start();
        await world.drive(
          (async () => {
            const replica = await open(next, encrypted, [0, 1]);
            // Before it is repaired: what the cut does not touch is as it was.
            for (const index of [0, 1]) {
              for (const piece of await cut.cut().lookup(index, 0, sizeBytes)) {
                if (piece.source !== 'base') continue;
                const part = Buffer.alloc(piece.lengthBytes);
                await replica.disk(index).read(part, piece.offsetBytes);
                const same = models[index]!.subarray(piece.offsetBytes, piece.offsetBytes + part.length).equals(part);
                if (!same) throw new Error(`io ${io}: untouched bytes of disk ${index} changed`);
              }
            }
            const result = await replica.promote(cut.cut());
            expect(result.damaged).toEqual([]);
            for (const index of [0, 1]) await expectDisk(replica, index, cut.over(index, models[index]!));
          })(),
        );
        host.powerCut();
        const last = host.start();
        await world.drive(
          (async () => {
            const replica = await open(last, encrypted, [0, 1]);
            for (const index of [0, 1]) await expectDisk(replica, index, cut.over(index, models[index]!));
          })(),
        );
      }
    },
  );

  test('base data cut by power after every I/O: acknowledged bytes stay, a resend repairs the rest', async () => {
    for (let io = 1; ; io++) {
      const { world, host, process } = bench(5000 + io);
      const first = process.random.bytes(100_000);
      const second = process.random.bytes(150_000);
      await world.drive(
        (async () => {
          const replica = await open(process, encrypted, []);
          const disk = await replica.create(0, 'a', sizeBytes);
          await disk.applyBase(8192, first);
          await disk.flushBase();
          host.crashAfterIo(io, 'power');
          void disk.applyBase(8192 + 100_000, second).then(() => disk.flushBase());
        })(),
      );
      await world.run();
      if (host.process !== undefined) break;
      const next = host.start();
      await world.drive(
        (async () => {
          const replica = await open(next, encrypted, [0]);
          const acknowledged = Buffer.alloc(100_000);
          await replica.disk(0).read(acknowledged, 8192);
          expect(acknowledged.equals(first)).toBe(true);
          await replica.disk(0).applyBase(8192 + 100_000, second);
          await replica.disk(0).flushBase();
          const expected = Buffer.alloc(sizeBytes);
          expected.set(first, 8192);
          expected.set(second, 108_192);
          await expectDisk(replica, 0, expected);
        })(),
      );
    }
  });

  test('a failed fdatasync or write during promotion is repaired by the same call', async () => {
    for (const kind of ['datasync', 'write'] as const) {
      for (let skipCount = 0; skipCount < 8; skipCount++) {
        const { world, host, process } = bench(77 + skipCount);
        let expected: Buffer[] = [];
        await world.drive(
          (async () => {
            const replica = await open(process, encrypted, []);
            const models = [await base(replica, process.random, 0), await base(replica, process.random, 1)];
            const cut = randomCut(process.random, 20);
            host.disk.failNext({ kind, skipCount });
            await replica.promote(cut.cut()).catch(() => undefined);
            host.disk.clearFaults();
            await replica.promote(cut.cut());
            expected = [0, 1].map((index) => cut.over(index, models[index]!));
          })(),
        );
        host.powerCut();
        const next = host.start();
        await world.drive(
          (async () => {
            const replica = await open(next, encrypted, [0, 1]);
            for (const index of [0, 1]) await expectDisk(replica, index, expected[index]!);
          })(),
        );
      }
    }
  });

  test('a flipped bit is never served, is found by the scrub, and repaired by a whole chunk', async () => {
    const { world, host, process } = bench(5);
    await world.drive(
      (async () => {
        const replica = await open(process, encrypted, []);
        const disk = await replica.create(0, 'a', sizeBytes);
        const bytes = Buffer.from(process.random.bytes(3 * 65_536));
        await disk.applyBase(0, bytes);
        await disk.flushBase();
        host.disk.flipBit('g/replica/0.raw', 70_000, 3);
        await expect(disk.read(Buffer.alloc(10), 70_100)).rejects.toMatchObject({ code: 'replica-mismatch' });
        host.disk.flipBit('g/replica/0.raw', 140_000, 1);
        const scrub = new Scrubber(replica, process.clock);
        const step = await scrub.step(1e9, 1e9);
        expect(step.findings).toContainEqual({ disk: 0, chunk: 2, unreadable: false });
        const cut = new CutModel();
        cut.write(0, sizeBytes - (sizeBytes % 512), 66_048, process.random.bytes(512));
        expect((await replica.promote(cut.cut())).damaged).toEqual([{ disk: 0, chunk: 1 }]);
        await expect(disk.read(Buffer.alloc(10), 70_100)).rejects.toMatchObject({ code: 'replica-mismatch' });
        expect(Buffer.from(await disk.digestsOf(1, 1))).toEqual(Buffer.alloc(16, 0xff));
        const repair = new CutModel();
        repair.write(0, sizeBytes, 65_536, bytes.subarray(65_536));
        await replica.promote(repair.cut());
        const found = Buffer.alloc(bytes.length);
        await disk.read(found, 0);
        expect(found.equals(bytes)).toBe(true);
      })(),
    );
  });

  test('a flipped bit in either slot of a digest page or header changes nothing', async () => {
    const { world, host, process } = bench(6);
    await world.drive(
      (async () => {
        const replica = await open(process, encrypted, []);
        const model = await base(replica, process.random, 0);
        await replica.close();
        const saved = host.disk.peek('g/replica/0.digests');
        for (let i = 0; i < 40; i++) {
          const offset = intBelow(process.random, 16_384);
          const bit = intBelow(process.random, 8);
          host.disk.flipBit('g/replica/0.digests', offset, bit);
          const again = await open(process, encrypted, [0]);
          await expectDisk(again, 0, model);
          await again.close();
          const file = await process.storage.open('g/replica/0.digests', 'write');
          await file.write(saved, 0);
          await file.close();
        }
      })(),
    );
  });

  test('a create cut by power after every I/O leaves a whole disk or none', async () => {
    for (let io = 1; ; io++) {
      const { world, host, process } = bench(7000 + io);
      await world.drive(
        (async () => {
          const replica = await open(process, encrypted, []);
          host.crashAfterIo(io, 'power');
          void replica.create(0, 'a', sizeBytes).catch(() => undefined);
        })(),
      );
      await world.run();
      if (host.process !== undefined) break;
      const next = host.start();
      await world.drive(
        (async () => {
          const there = await next.storage.exists('g/replica/0.digests');
          const replica = await open(next, encrypted, there ? [0] : []);
          if (!there) await replica.create(0, 'a', sizeBytes);
          await expectDisk(replica, 0, Buffer.alloc(sizeBytes));
        })(),
      );
    }
  });

  test('a wrong key is refused', async () => {
    const { world, process } = bench(7);
    await world.drive(
      (async () => {
        const replica = await open(process, encrypted, []);
        await replica.create(0, 'a', sizeBytes);
        await replica.close();
        const error: unknown = await open(process, !encrypted, [0]).catch((reason: unknown) => reason);
        expect(isTidemarkError(error, 'encryption-key')).toBe(true);
      })(),
    );
  });
});

test('planted: half a promotion and a watermark before fdatasync are both wrong', async () => {
  for (const bug of ['promote-half-range', 'promotion-watermark-before-fdatasync'] as const) {
    let wrong = 0;
    for (let seed = 0; seed < 20; seed++) {
      const { world, host, process } = bench(300 + seed);
      let expected: Buffer = Buffer.alloc(0);
      await world.drive(
        (async () => {
          const replica = await open(process, false, []);
          const model = await base(replica, process.random, 0);
          const cut = randomCut(process.random, 10, [0]);
          plant(bug);
          await replica.promote(cut.cut());
          expected = cut.over(0, model);
        })(),
      );
      uprootAll();
      host.powerCut();
      const next = host.start();
      await world.drive(
        (async () => {
          const replica = await open(next, false, [0]);
          await expectDisk(replica, 0, expected);
        })().catch(() => wrong++),
      );
    }
    expect(wrong).toBeGreaterThan(5);
  }
});
