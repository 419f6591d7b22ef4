import { describe, expect, test } from '@jest/globals';
import { CompressionPolicy } from '../../agent/src/link/compression.js';
import { BlockEncoder } from '../../agent/src/link/encoder.js';
import { EpochFile, unknownEpoch } from '../../agent/src/link/epoch-file.js';
import type { EncodedBlock } from '../../agent/src/link/encoded-block.js';
import { Spool } from '../../agent/src/link/spool.js';
import { SimWorld } from '../sim/world/sim-world.js';

const encoder = new BlockEncoder({ compress: (raw) => raw }, new CompressionPolicy(() => 0));

function block(sequence: number, bytes: number): Promise<EncodedBlock> {
  const record = {
    kind: 1,
    disk: 0,
    offsetBytes: 0,
    lengthBytes: bytes,
    bytes: new Uint8Array(bytes).fill(sequence),
    payload: undefined,
    sequence,
  } as const;
  const place = {
    firstSequence: sequence,
    lastSequence: sequence,
    folded: false,
    part: 0,
    lastPart: false,
    sourceTimeUs: 5,
  };
  return encoder.encodeCopy([record], bytes, place);
}

describe('spool', () => {
  test('keeps to its bound, gives files back, forgets everything at a start', async () => {
    const world = new SimWorld(1);
    const { storage } = world.addHost('h').start();
    const options = { storage, directory: '/s', capacityBytes: 100_000, fileBytes: 20_000 };
    const spool = new Spool(options);
    await world.drive(spool.open());
    const extents = [];
    for (let sequence = 1; sequence <= 9; sequence++)
      extents.push(await world.drive(spool.append(await block(sequence, 10_000))));
    const tooMuch = await block(10, 10_000);
    await expect(world.drive(spool.append(tooMuch))).rejects.toMatchObject({ code: 'storage-full' });
    expect(await world.drive(storage.list('/s'))).toHaveLength(5);
    const read = await world.drive(spool.read(extents[4]!));
    expect([read.header.firstSequence, read.body[7]]).toEqual([5, 5]);
    expect((await world.drive(spool.readTable(extents[4]!))).header.lastSequence).toBe(5);
    for (const extent of extents.slice(0, 4)) spool.free(extent);
    await world.run();
    expect(await world.drive(storage.list('/s'))).toHaveLength(3);
    expect(spool.usedBytes).toBe(spool.liveBytes);
    const again = new Spool(options);
    await world.drive(again.open());
    expect(await world.drive(storage.list('/s'))).toEqual([]);
  });

  test('a failed write leaves the spool usable; a flipped bit is refused', async () => {
    const world = new SimWorld(2);
    const host = world.addHost('h');
    const spool = new Spool({ storage: host.start().storage, directory: '/s', capacityBytes: 1e6, fileBytes: 20_000 });
    await world.drive(spool.open());
    host.disk.capacityBytes = 0;
    await expect(world.drive(spool.append(await block(1, 10_000)))).rejects.toMatchObject({ code: 'storage-full' });
    host.disk.capacityBytes = Infinity;
    const extent = await world.drive(spool.append(await block(2, 10_000)));
    expect((await world.drive(spool.read(extent))).header.firstSequence).toBe(2);
    host.disk.flipRandomBit((path) => path.includes('spool'));
    await expect(world.drive(spool.read(extent))).rejects.toThrow();
  });
});

test('the epoch file holds the newest save through crashes', async () => {
  for (let seed = 1; seed <= 100; seed++) {
    const world = new SimWorld(seed);
    const host = world.addHost('h');
    let saved = 0;
    for (let start = 0; start < 6; start++) {
      const process = host.start();
      const file = new EpochFile(process.storage, '/e');
      const state = await world.drive(file.load());
      const known = state.epoch;
      expect([saved, saved + 1]).toContain(known);
      saved = known;
      host.crashAfterIo(1 + world.random.int(30), 'power');
      void (async () => {
        for (;;) {
          await file.save({ epoch: saved + 1, branch: 'b'.repeat(16), sourceTimeMs: 1.5 });
          saved++;
        }
      })().catch(() => undefined);
      await world.run({ until: () => host.process === undefined });
    }
  }
  expect(unknownEpoch.epoch).toBe(0);
});
