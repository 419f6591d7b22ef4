import { describe, expect, test } from '@jest/globals';
import { RecordKind } from '../../agent/src/block/record.js';
import { keyCheckOf } from '../../agent/src/journal/encryption.js';
import { MemoryStorage, seededRandom } from './journal-memory-storage.js';
import { at, makeBlock, openTest, readCut, diskBytes, uuid } from './journal-model.js';

const path = 'group/segments/0000000001.seg';
const write = (sequence: number, length = 16) =>
  makeBlock({ first: sequence }, [
    { kind: RecordKind.write, disk: 1, offset: sequence * 512, payload: Buffer.alloc(length, sequence) },
  ]);

/** A storage whose journal holds durable blocks 1…count in one open segment. */
async function written(count: number, key?: Buffer): Promise<MemoryStorage> {
  const storage = new MemoryStorage();
  const { journal } = await openTest(storage, seededRandom(1), { key, segmentBytes: 1 << 20 });
  for (let sequence = 1; sequence <= count; sequence++) {
    journal.append(write(sequence));
    await journal.flush();
  }
  storage.generation++;
  return storage;
}

/** An independent copy. */
function copy(storage: MemoryStorage): MemoryStorage {
  const twin = new MemoryStorage();
  for (const [name, node] of storage.names) {
    const next = Object.assign(Object.create(Object.getPrototypeOf(node) as object) as typeof node, {
      live: Buffer.from(node.live),
      durable: Buffer.from(node.live),
      dirty: new Set<number>(),
      lost: new Set<number>(),
    });
    twin.names.set(name, next);
    twin.durableNames.set(name, next);
  }
  return twin;
}

const durableOf = async (storage: MemoryStorage): Promise<number> =>
  (await openTest(storage, seededRandom(2))).journal.durable[0]?.sequence ?? 0;

describe('journal recovery', () => {
  test('a tail torn at any byte of the last entry is cut; the ones before stay', async () => {
    const before = (await written(3)).bytes(path).length;
    const storage = await written(4);
    const whole = storage.bytes(path).length;
    for (let length = before; length < whole; length++) {
      const torn = copy(storage);
      torn.names.get(path)!.live = torn.bytes(path).subarray(0, length);
      expect(await durableOf(torn)).toBe(3);
      const zeroed = copy(storage);
      zeroed.bytes(path).fill(0, length);
      expect(await durableOf(zeroed)).toBeLessThanOrEqual(4);
      expect(await durableOf(zeroed)).toBeGreaterThanOrEqual(3);
    }
  });

  test('every single-bit flip below the watermark is reported', async () => {
    const storage = await written(3);
    // The third entry witnesses the first two.
    const end = (await written(2)).bytes(path).length;
    for (let bit = 0; bit < end * 8; bit++) {
      const flipped = copy(storage);
      flipped.bytes(path)[bit >> 3]! ^= 1 << (bit & 7);
      await expect(openTest(flipped, seededRandom(2))).rejects.toMatchObject({ name: 'TidemarkError' });
    }
  });

  test('a missing footer is rebuilt by a scan, a flip in a sealed segment is reported by verify', async () => {
    const storage = await written(8);
    await openTest(storage, seededRandom(2));
    const sealed = copy(storage);
    const size = storage.bytes(path).length;
    sealed.names.get(path)!.live = sealed.bytes(path).subarray(0, size - 1);
    const { journal } = await openTest(sealed, seededRandom(3));
    expect(journal.durable).toEqual(at(8));
    expect(sealed.bytes(path).length).toBe(size);
    const cut = await journal.cut(at(5));
    const found = await readCut(cut, 1, Buffer.alloc(diskBytes), seededRandom(4));
    expect([...Array(8).keys()].map((index) => found[(index + 1) * 512])).toEqual([1, 2, 3, 4, 5, 0, 0, 0]);
    sealed.bytes(path)[200]! ^= 1;
    await expect(journal.verify(() => undefined, new AbortController().signal)).rejects.toMatchObject({
      code: 'journal-corrupt',
    });
  });

  test('a folded range without its last part is void, others after it stay', async () => {
    const storage = new MemoryStorage();
    const { journal } = await openTest(storage, seededRandom(1));
    journal.append(write(1));
    journal.append(
      makeBlock({ first: 2, last: 9, folded: true, part: 0 }, [
        { kind: RecordKind.zero, disk: 1, offset: 512, length: 512 },
      ]),
    );
    journal.append(makeBlock({ stream: 1, first: 1 }, [{ kind: RecordKind.zero, disk: 2, offset: 0, length: 512 }]));
    await journal.flush();
    expect(journal.durable).toEqual({ 0: { incarnation: 1, sequence: 1 }, 1: { incarnation: 1, sequence: 1 } });
    storage.generation++;
    const again = await openTest(storage, seededRandom(2));
    expect(again.journal.durable).toEqual({ 0: { incarnation: 1, sequence: 1 }, 1: { incarnation: 1, sequence: 1 } });
  });

  test('a full disk falls back and goes on; base data is elided', async () => {
    const storage = new MemoryStorage();
    const { journal } = await openTest(storage, seededRandom(1));
    const base = makeBlock({ first: 1 }, [
      { kind: RecordKind.base, disk: 1, offset: 0, payload: Buffer.alloc(9000, 1) },
    ]);
    journal.append(base, { bodyElided: true });
    await journal.flush();
    expect(storage.bytes(path).length).toBeLessThan(500);
    const errors: Error[] = [];
    journal.onPoisoned((error) => errors.push(error));
    storage.fault = (operation, name) => {
      if (operation === 'write' && name.endsWith('.seg'))
        throw Object.assign(new Error('full'), { code: 'storage-full' });
    };
    journal.append(write(2));
    await expect(journal.flush()).rejects.toThrow('full');
    expect(errors).toHaveLength(1);
    expect(journal.received).toEqual(at(1));
    storage.fault = undefined;
    journal.append(write(2));
    await journal.flush();
    expect(journal.durable).toEqual(at(2));
    expect(keyCheckOf(Buffer.alloc(32), uuid)).toHaveLength(64);
  });
});
