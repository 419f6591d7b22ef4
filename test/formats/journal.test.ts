import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { MemoryStorage, seededRandom } from '../unit/journal-memory-storage.js';
import { at, diskBytes, openTest, readCut } from '../unit/journal-model.js';

const folder = join(import.meta.dirname, 'journal-v1');
const segment = 'group/segments/0000000001.seg';
const log = 'group/manifest-0000000001';
const samples = ['plain-open', 'plain-sealed', 'encrypted-open', 'encrypted-sealed'];

async function load(name: string): Promise<MemoryStorage> {
  const storage = new MemoryStorage();
  const root = join(folder, name);
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const file = await storage.open(path.slice(root.length + 1), 'create');
    await file.write(readFileSync(path), 0);
  }
  return storage;
}

const open = (storage: MemoryStorage, name: string) =>
  openTest(storage, seededRandom(3), name.startsWith('encrypted') ? { key: Buffer.alloc(32, 7) } : {});

describe.each(samples)('frozen sample %s', (name) => {
  test('good: opens and reads the same bytes', async () => {
    const { journal } = await open(await load(name), name);
    expect(journal.durable).toEqual(at(10));
    expect(journal.marks().map((mark) => mark.mark.label)).toEqual(['frozen']);
    const payload = Buffer.from('Tidemark frozen sample '.repeat(30));
    const image = Buffer.alloc(diskBytes);
    payload.copy(image, 0);
    payload.copy(image, 8192);
    image.fill(0, 100, 200);
    const cut = await journal.cut(at(10));
    expect((await readCut(cut, 1, Buffer.alloc(diskBytes), seededRandom(4))).equals(image)).toBe(true);
  });

  test('torn: an open segment is cut, a sealed one without its end is damage', async () => {
    const storage = await load(name);
    const node = storage.names.get(segment)!;
    node.live = Buffer.from(node.live.subarray(0, 1000));
    if (name.endsWith('open')) expect((await open(storage, name)).journal.durable).toEqual(at(1));
    else await expect(open(storage, name)).rejects.toMatchObject({ code: 'journal-corrupt' });
  });

  test('flipped: a bit of the header, of the record log', async () => {
    for (const path of [segment, log]) {
      const storage = await load(name);
      storage.bytes(path)[9]! ^= 4;
      await expect(open(storage, name)).rejects.toMatchObject({ code: 'journal-corrupt' });
    }
  });

  test('newer versions are refused with their own code', async () => {
    const newerSegment = await load(name);
    const header = newerSegment.bytes(segment);
    header.writeUInt32LE(2, 4);
    header.writeUInt32LE(crc32(header.subarray(0, 60)), 60);
    await expect(open(newerSegment, name)).rejects.toMatchObject({ code: 'format-version' });
    const newerLog = await load(name);
    const logHeader = newerLog.bytes(log);
    logHeader.writeUInt32LE(2, 4);
    logHeader.writeUInt32LE(crc32(logHeader.subarray(0, 16)), 16);
    await expect(open(newerLog, name)).rejects.toMatchObject({ code: 'format-version' });
  });

  test('a wrong or missing key', async () => {
    if (!name.startsWith('encrypted')) return;
    await expect(openTest(await load(name), seededRandom(3))).rejects.toMatchObject({ code: 'encryption-key' });
  });
});
