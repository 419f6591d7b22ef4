import { describe, expect, test } from '@jest/globals';
import { RecordLog } from '../../agent/src/core/record-log.js';
import { MemoryStorage, seededRandom } from './journal-memory-storage.js';

const directory = 'group';
const open = (storage: MemoryStorage) => RecordLog.open(storage, directory, 'manifest');
const current = (generation = 1): string => `group/manifest-${String(generation).padStart(10, '0')}`;

describe('record log', () => {
  test('keeps records in order over reopen and rewrite', async () => {
    const storage = new MemoryStorage();
    const { log, records } = await open(storage);
    expect(records).toEqual([]);
    await Promise.all([log.append({ n: 1 }), log.append({ n: 2 }), log.append({ text: 'ä\n' })]);
    await Promise.all([log.rewrite([{ n: 3 }]), log.append({ n: 4 })]);
    await log.close();
    await expect(log.append({})).rejects.toMatchObject({ code: 'shutting-down' });
    expect(await storage.list(directory)).toEqual(['manifest-0000000002', 'manifest-current']);
    expect((await open(storage)).records).toEqual([{ n: 3 }, { n: 4 }]);
  });

  test('survives power loss at any I/O: acknowledged records are there, in order, without a hole', async () => {
    for (let seed = 1; seed <= 300; seed++) {
      const random = seededRandom(seed);
      const storage = new MemoryStorage();
      let acknowledged = 0;
      let next = 0;
      for (let life = 0; life < 4; life++) {
        let left = Math.floor(random() * 40);
        storage.fault = () => {
          if (left-- <= 0) throw new Error('power');
        };
        try {
          const { log, records } = await open(storage);
          expect(records.length).toBeGreaterThanOrEqual(acknowledged);
          expect(records).toEqual(records.map((_, index) => index));
          next = records.length;
          for (let step = 0; step < 10; step++) {
            const count = 1 + Math.floor(random() * 3);
            const all = Array.from({ length: count }, () => log.append(next++));
            if (random() < 0.2) all.push(log.rewrite(Array.from({ length: next }, (_, index) => index)));
            await Promise.all(all);
            acknowledged = next;
          }
        } catch (error) {
          if ((error as { code?: string }).code === 'journal-corrupt' || !/power/.test(String(error))) throw error;
        }
        storage.fault = undefined;
        storage.crash(random);
      }
      expect((await open(storage)).records.length).toBeGreaterThanOrEqual(acknowledged);
    }
  });

  test('a failure poisons it; reopening recovers', async () => {
    const storage = new MemoryStorage();
    const { log } = await open(storage);
    await log.append(1);
    storage.fault = (operation) => {
      if (operation === 'datasync') throw new Error('EIO');
    };
    const both = await Promise.allSettled([log.append(2), log.append(3)]);
    expect(both.map((each) => each.status)).toEqual(['rejected', 'rejected']);
    storage.fault = undefined;
    await expect(log.append(4)).rejects.toMatchObject({ code: 'storage-io' });
    expect((await open(storage)).records[0]).toBe(1);
  });

  test('every single-bit flip before the last frame is reported, a torn tail is cut at any byte', async () => {
    const storage = new MemoryStorage();
    const { log } = await open(storage);
    await log.append({ a: 1 });
    const before = storage.bytes(current()).length;
    await log.append({ b: 22 });
    const good = Buffer.from(storage.bytes(current()));
    for (let bit = 0; bit < before * 8; bit++) {
      // Padding and the reserved field are not covered.
      const at = bit >> 3;
      if ((at >= 20 && at < 24) || at >= 24 + 12 + 8) continue;
      const bytes = storage.bytes(current());
      good.copy(bytes);
      bytes[at]! ^= 1 << (bit & 7);
      await expect(open(storage)).rejects.toMatchObject({ name: 'TidemarkError' });
    }
    for (let length = before; length < good.length; length++) {
      const copy = new MemoryStorage();
      const file = await copy.open(current(), 'create');
      await file.write(good.subarray(0, length), 0);
      const pointer = await copy.open('group/manifest-current', 'create');
      await pointer.write(storage.bytes('group/manifest-current'), 0);
      const { records } = await open(copy);
      expect(records[0]).toEqual({ a: 1 });
      expect(records.length).toBeLessThanOrEqual(2);
    }
  });
});
