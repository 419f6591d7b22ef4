/** What every {@link Storage} must do. Durability is the simulated disk's own test: no other can lose power. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Storage, StorageFile } from '../../agent/src/core/storage.js';
import { SimRandom } from '../sim/world/sim-random.js';

export interface StorageFixture {
  readonly storage: Storage;
  /** An existing directory of the fixture's own. */
  readonly root: string;
  /** Lets time pass until the promise settles. */
  readonly drive: <T>(promise: Promise<T>) => Promise<T>;
  readonly dispose: () => Promise<void>;
}

const text = (value: string): Uint8Array => Buffer.from(value);

export function describeStorage(name: string, create: () => Promise<StorageFixture>): void {
  describe(`storage contract: ${name}`, () => {
    let fixture: StorageFixture;
    let storage: Storage;
    let at: (path: string) => string;

    beforeEach(async () => {
      fixture = await create();
      storage = fixture.storage;
      at = (path) => `${fixture.root}/${path}`;
    });
    afterEach(() => fixture.dispose());

    const scenario = (title: string, run: () => Promise<void>): void => test(title, () => fixture.drive(run()));

    async function put(path: string, content: Uint8Array): Promise<void> {
      const file = await storage.open(at(path), 'create');
      await file.write(content, 0);
      await file.close();
    }

    async function get(path: string): Promise<string> {
      const file = await storage.open(at(path), 'read');
      const bytes = await readAll(file);
      await file.close();
      return Buffer.from(bytes).toString();
    }

    scenario('open modes: what must exist and what must not', async () => {
      await expect(storage.open(at('a'), 'read')).rejects.toMatchObject({ code: 'storage-not-found', path: at('a') });
      await expect(storage.open(at('a'), 'write')).rejects.toMatchObject({ code: 'storage-not-found' });
      await expect(storage.open(at('no/a'), 'create')).rejects.toMatchObject({ code: 'storage-not-found' });
      await put('a', text('x'));
      await expect(storage.open(at('a'), 'create')).rejects.toMatchObject({ code: 'storage-exists', path: at('a') });
      await expect(storage.open(fixture.root, 'write')).rejects.toMatchObject({ code: 'storage-io' });
    });

    scenario('reads stop at the end, gaps read as zeros', async () => {
      const file = await storage.open(at('a'), 'create');
      await file.write(text('end'), 10_000);
      expect(await file.sizeBytes()).toBe(10_003);
      const bytes = Buffer.alloc(20, 0xff);
      expect(await file.read(bytes, 9_990)).toBe(13);
      expect(bytes.subarray(0, 13).toString('latin1')).toBe('\0'.repeat(10) + 'end');
      expect(bytes[13]).toBe(0xff);
      expect(await file.read(bytes, 10_003)).toBe(0);
      expect(await file.read(bytes, 20_000)).toBe(0);
      await file.close();
    });

    scenario('writes overwrite in place, over any borders', async () => {
      const file = await storage.open(at('a'), 'create');
      const model = Buffer.alloc(40_000);
      for (const [position, length] of [
        [0, 40_000],
        [4095, 2],
        [511, 9000],
        [39_999, 1],
        [12_288, 4096],
      ] as const) {
        const bytes = Buffer.alloc(length, position % 251);
        bytes.copy(model, position);
        await file.write(bytes, position);
      }
      expect(Buffer.compare(await readAll(file), model)).toBe(0);
      await file.datasync();
      expect(Buffer.compare(await readAll(file), model)).toBe(0);
      await file.close();
    });

    scenario('writeAll joins the pieces, thousands and empty ones too', async () => {
      const file = await storage.open(at('a'), 'create');
      const pieces = Array.from({ length: 3000 }, (_, index) => Buffer.alloc(index % 7, index % 256));
      await file.writeAll(pieces, 5);
      await file.writeAll([], 0);
      await file.writeAll([Buffer.alloc(0)], 1 << 20);
      const expected = Buffer.concat([Buffer.alloc(5), ...pieces]);
      expect(Buffer.compare(await readAll(file), expected)).toBe(0);
      await file.close();
    });

    scenario('bulk: appended and overwritten in pieces of any size, by any border, read in between', async () => {
      const random = new SimRandom(7);
      const upTo = (limit: number): number => Math.floor(random.float() * limit);
      const file = await storage.open(at('a'), 'create', { bulk: true });
      let model = Buffer.alloc(0);
      for (let round = 0; round < 60; round++) {
        const position = round % 4 === 3 ? upTo(model.length) : model.length;
        const aligned = round % 5 === 0 ? position - (position % 4096) : position;
        const pieces = Array.from({ length: 1 + upTo(5) }, () => Buffer.alloc(upTo(round % 3 === 0 ? 9000 : 600_000)));
        for (const piece of pieces) for (let byte = 0; byte < piece.length; byte += 97) piece[byte] = upTo(256);
        const bytes = Buffer.concat(pieces);
        const grown = Buffer.alloc(Math.max(model.length, aligned + bytes.length));
        model.copy(grown);
        bytes.copy(grown, aligned);
        model = grown;
        await file.writeAll(pieces, aligned);
        expect(await file.sizeBytes()).toBe(model.length);
        const from = upTo(model.length);
        const read = Buffer.alloc(Math.min(100_000, model.length - from));
        expect(await file.read(read, from)).toBe(read.length);
        expect(Buffer.compare(read, model.subarray(from, from + read.length))).toBe(0);
      }
      await file.datasync();
      await file.close();
      const again = await storage.open(at('a'), 'read');
      expect(Buffer.compare(await readAll(again), model)).toBe(0);
      await again.close();
    });

    scenario('bulk: many at once on one file, and on a file that exists', async () => {
      await put('a', Buffer.alloc(8 << 20, 1));
      const file = await storage.open(at('a'), 'write', { bulk: true });
      const writes = Array.from({ length: 8 }, (_, index) => index);
      await Promise.all(writes.map((index) => file.write(Buffer.alloc(1 << 20, index + 2), index << 20)));
      await file.close();
      const again = await storage.open(at('a'), 'read');
      const bytes = await readAll(again);
      for (const index of writes)
        expect([bytes[index << 20], bytes[((index + 1) << 20) - 1]]).toEqual([index + 2, index + 2]);
      await again.close();
    });

    scenario('sparse files far beyond any disk', async () => {
      const file = await storage.open(at('a'), 'create');
      await file.truncate(2 ** 40);
      await file.write(text('far'), 2 ** 39);
      expect(await file.sizeBytes()).toBe(2 ** 40);
      const bytes = Buffer.alloc(5);
      expect(await file.read(bytes, 2 ** 39 - 1)).toBe(5);
      expect(bytes.toString('latin1')).toBe('\0far\0');
      await file.close();
    });

    scenario('truncate cuts, and what grows back is zeros', async () => {
      const file = await storage.open(at('a'), 'create');
      await file.write(Buffer.alloc(9000, 1), 0);
      await file.truncate(5000);
      await file.truncate(9000);
      expect(Buffer.compare(await readAll(file), Buffer.concat([Buffer.alloc(5000, 1), Buffer.alloc(4000)]))).toBe(0);
      await file.close();
    });

    scenario('a handle opened for reading cannot write', async () => {
      await put('a', text('x'));
      const file = await storage.open(at('a'), 'read');
      await expect(file.write(text('y'), 0)).rejects.toMatchObject({ code: 'storage-io' });
      await file.close();
      expect(await get('a')).toBe('x');
    });

    scenario('close is idempotent, waits for I/O under way, and ends the handle', async () => {
      const file = await storage.open(at('a'), 'create');
      const write = file.write(Buffer.alloc(1 << 20, 7), 0);
      await Promise.all([write, file.close(), file.close()]);
      await file.close();
      await expect(file.read(new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'storage-io' });
      await expect(file.datasync()).rejects.toMatchObject({ code: 'storage-io' });
    });

    scenario('rename replaces, within and across directories', async () => {
      await storage.makeDirectory(at('d'));
      await put('a', text('new'));
      await put('d/b', text('old'));
      await storage.rename(at('a'), at('d/b'));
      expect(await get('d/b')).toBe('new');
      expect(await storage.exists(at('a'))).toBe(false);
      await storage.rename(at('d/b'), at('d/c'));
      expect(await storage.list(at('d'))).toEqual(['c']);
      await storage.rename(at('d'), at('e'));
      expect(await get('e/c')).toBe('new');
      await expect(storage.rename(at('no'), at('x'))).rejects.toMatchObject({ code: 'storage-not-found' });
    });

    scenario('a removed or replaced file lives on in its open handle', async () => {
      await put('a', text('one'));
      await put('b', text('two'));
      const first = await storage.open(at('a'), 'write');
      const second = await storage.open(at('b'), 'read');
      await storage.remove(at('a'));
      await storage.rename(at('b'), at('a'));
      await storage.remove(at('a'));
      await first.write(text('ONE!'), 0);
      expect(Buffer.from(await readAll(first)).toString()).toBe('ONE!');
      expect(Buffer.from(await readAll(second)).toString()).toBe('two');
      await first.close();
      await second.close();
      expect(await storage.list(fixture.root)).toEqual([]);
    });

    scenario('remove: a missing file is no error, a directory is', async () => {
      await storage.remove(at('a'));
      await storage.makeDirectory(at('d'));
      await expect(storage.remove(at('d'))).rejects.toMatchObject({ code: 'storage-io' });
      await storage.removeTree(at('missing'));
    });

    scenario('directories: made with parents, listed sorted, removed whole', async () => {
      await storage.makeDirectory(at('x/y/z'));
      await storage.makeDirectory(at('x/y/z'));
      for (const name of ['b', 'B', 'a10', 'a9']) await put(`x/${name}`, text(name));
      expect(await storage.list(at('x'))).toEqual(['B', 'a10', 'a9', 'b', 'y']);
      expect(await storage.exists(at('x/y/z'))).toBe(true);
      await storage.syncDirectory(at('x'));
      await storage.removeTree(at('x'));
      expect(await storage.exists(at('x'))).toBe(false);
      await expect(storage.list(at('x'))).rejects.toMatchObject({ code: 'storage-not-found' });
      await expect(storage.syncDirectory(at('x'))).rejects.toMatchObject({ code: 'storage-not-found' });
    });

    scenario('a file is no directory', async () => {
      await put('a', text('x'));
      expect(await storage.exists(at('a/b'))).toBe(false);
      await expect(storage.open(at('a/b'), 'create')).rejects.toMatchObject({ code: 'storage-not-found' });
      await expect(storage.makeDirectory(at('a'))).rejects.toMatchObject({ code: 'storage-exists' });
    });

    scenario('a clone has the same bytes, or is not there at all', async () => {
      await put('a', text('a whole file'));
      if (storage.clone === undefined) return;
      const cloned = await storage.clone(at('a'), at('b'));
      expect(await storage.exists(at('b'))).toBe(cloned);
      if (cloned) {
        const file = await storage.open(at('b'), 'read');
        expect(Buffer.from(await readAll(file)).toString()).toBe('a whole file');
        await file.close();
      }
    });

    scenario('free bytes', async () => {
      expect(await storage.freeBytes(fixture.root)).toBeGreaterThan(0);
    });

    scenario('many operations at once on one file', async () => {
      const file = await storage.open(at('a'), 'create');
      const indexes = Array.from({ length: 200 }, (_, index) => index);
      await Promise.all(indexes.map((index) => file.write(Buffer.alloc(1000, index), index * 1000)));
      await Promise.all([file.datasync(), file.datasync()]);
      for (const index of indexes) {
        const bytes = Buffer.alloc(1000);
        expect(await file.read(bytes, index * 1000)).toBe(1000);
        expect(Buffer.compare(bytes, Buffer.alloc(1000, index))).toBe(0);
      }
      await file.close();
    });
  });
}

async function readAll(file: StorageFile): Promise<Uint8Array> {
  const bytes = Buffer.alloc(await file.sizeBytes());
  expect(await file.read(bytes, 0)).toBe(bytes.length);
  return bytes;
}
