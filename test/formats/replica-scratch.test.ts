import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32, gunzipSync } from 'node:zlib';
import { Replica } from '../../agent/src/replica/replica.js';
import { Scratch } from '../../agent/src/view/scratch.js';
import { bench, key } from '../unit/replica-fakes.js';
import type { SimProcess } from '../sim/world/sim-host.js';
import { sampleBytes, sampleNames, type SampleName } from './replica-samples.js';

const folder = join(process.env['TIDEMARK_ROOT'] ?? process.cwd(), 'test/formats');

async function put(
  target: SimProcess,
  directory: string,
  name: string,
  change?: (bytes: Buffer) => Buffer,
): Promise<void> {
  await target.storage.makeDirectory(directory);
  const frozen = gunzipSync(readFileSync(join(folder, `${name}.v1.gz`)));
  const file = await target.storage.open(
    `${directory}/${name.split('/')[1]!.replace(/^(plain|encrypted)-/, '')}`,
    'create',
  );
  await file.write(change?.(frozen) ?? frozen, 0);
  await file.close();
}

function flip(offset: number): (bytes: Buffer) => Buffer {
  return (bytes) => {
    bytes[offset]! ^= 4;
    return bytes;
  };
}

async function load(kind: SampleName, changes: Partial<Record<string, (bytes: Buffer) => Buffer>>): Promise<Buffer> {
  const { world, process: target } = bench(1);
  return world.drive(
    (async () => {
      const secret = kind === 'encrypted' ? key : undefined;
      const { storage, clock, random } = target;
      for (const name of ['0.raw', '0.digests']) await put(target, 'r', `replica/${kind}-${name}`, changes[name]);
      for (const name of ['scratch.data', 'scratch.map'])
        await put(target, 's', `scratch/${kind}-${name}`, changes[name]);
      const replica = await Replica.open({ storage, clock, random, directory: 'r', key: secret }, [0]);
      const bytes = Buffer.alloc(replica.disk(0).sizeBytes);
      await replica.disk(0).read(bytes, 0);
      const scratch = await Scratch.open({ storage, random, directory: 's', key: secret, limitBytes: 1e6 });
      const block = Buffer.alloc(8192);
      await scratch.readSlots(scratch.map(0).get(3) - 2, 0, block);
      return Buffer.concat([bytes, block, Buffer.from([scratch.map(0).get(5), scratch.map(0).get(9)])]);
    })(),
  );
}

describe.each(sampleNames)('version 1, %s', (kind) => {
  test('is read', async () => {
    expect((await load(kind, {})).equals(sampleBytes())).toBe(true);
  });

  test('torn tail of the map is cut off, a torn page has its other slot', async () => {
    const torn = (bytes: Buffer): Buffer => Buffer.concat([bytes, bytes.subarray(512, 530)]);
    expect(
      (await load(kind, { 'scratch.map': torn, '0.digests': flip(8192 + 4096 + 100) })).equals(sampleBytes()),
    ).toBe(true);
  });

  test('a newer version is refused by its own code', async () => {
    const newer =
      (headerBytes: number, copies: number) =>
      (bytes: Buffer): Buffer => {
        for (let at = 0; at < copies * headerBytes; at += headerBytes) {
          bytes.writeUInt16LE(2, at + 4);
          bytes.writeUInt32LE(crc32(bytes.subarray(at, at + headerBytes - 4)), at + headerBytes - 4);
        }
        return bytes;
      };
    await expect(load(kind, { '0.digests': newer(4096, 2) })).rejects.toMatchObject({ code: 'format-version' });
    await expect(load(kind, { 'scratch.map': newer(512, 1) })).rejects.toMatchObject({ code: 'format-version' });
  });

  test('flipped bits are refused', async () => {
    await expect(load(kind, { '0.raw': flip(1000) })).rejects.toMatchObject({ code: 'replica-mismatch' });
    await expect(load(kind, { 'scratch.map': flip(520) })).rejects.toMatchObject({ code: 'scratch-corrupt' });
    await expect(load(kind, { 'scratch.map': flip(9) })).rejects.toMatchObject({ code: 'scratch-corrupt' });
  });
});
