/** A digest file: pages through a bounded cache, each in two slots so that a torn write loses nothing. See REPLICA.md. */
import { TidemarkError } from '../core/errors.js';
import { invariant } from '../core/invariant.js';
import type { StorageFile } from '../core/storage.js';
import { headerSlotBytes } from './digest-header.js';
import { chunksPerPage, decodePage, pageBytes, type DigestPage } from './digest-page.js';

/** Page writes in flight. */
const writeParallelMax = 16;
/** Pages whose second slot lags; over it, they are written along with the next sync. */
const mirrorDueMax = 256;

/** Bounds the pages that all digest files of a replica keep in memory (4 KiB each, and about 300 bytes around it). */
export class PageCache {
  readonly pagesMax: number;
  readonly #pages = new Map<number, DigestPage>();

  constructor(pagesMax: number) {
    this.pagesMax = pagesMax;
  }

  get count(): number {
    return this.#pages.size;
  }

  get(key: number): DigestPage | undefined {
    const page = this.#pages.get(key);
    if (page !== undefined) page.referenced = true;
    return page;
  }

  /** Evicts clean pages by second chance; pages that are pinned, dirty or lagging stay. */
  put(key: number, page: DigestPage): void {
    this.#pages.set(key, page);
    let looks = 2 * this.#pages.size;
    for (const [oldKey, old] of this.#pages) {
      if (this.#pages.size <= this.pagesMax || looks-- === 0) break;
      if (old === page || old.pinCount > 0 || old.dirty || old.mirrorDue) continue;
      this.#pages.delete(oldKey);
      if (old.referenced) {
        old.referenced = false;
        this.#pages.set(oldKey, old);
      }
    }
  }

  deleteRange(firstKey: number, endKey: number): void {
    for (const key of [...this.#pages.keys()]) if (key >= firstKey && key < endKey) this.#pages.delete(key);
  }
}

/** Keys of one disk's pages: 2^26 pages are a petabyte. */
const keysPerDisk = 2 ** 26;

export class DigestFile {
  readonly #file: StorageFile;
  readonly #cache: PageCache;
  readonly #keyBase: number;
  readonly #loading = new Map<number, Promise<DigestPage>>();
  /** Dirty or lagging pages, in memory whatever the cache says. */
  readonly #unsynced = new Set<DigestPage>();

  constructor(file: StorageFile, cache: PageCache, disk: number) {
    this.#file = file;
    this.#cache = cache;
    this.#keyBase = disk * keysPerDisk;
  }

  /** The page of a chunk: at once when it is in memory. */
  page(chunk: number): DigestPage | Promise<DigestPage> {
    const index = Math.floor(chunk / chunksPerPage);
    return this.#cache.get(this.#keyBase + index) ?? this.#load(index);
  }

  /** The page, kept in memory until `unpin`. */
  async pin(chunk: number): Promise<DigestPage> {
    for (;;) {
      const page = await this.page(chunk);
      if (this.#cache.get(this.#keyBase + page.index) !== page) continue;
      page.pinCount++;
      return page;
    }
  }

  /** The page must be synced before it may leave memory. */
  markDirty(page: DigestPage): void {
    invariant(page.dirty, 'only a dirty page is marked');
    this.#unsynced.add(page);
  }

  /** Writes what is dirty (and second slots over the bound) and makes it durable. Not concurrent with itself. */
  async sync(mirrorAll = false): Promise<void> {
    const written: { page: DigestPage; slot: number; fresh: boolean }[] = [];
    const mirrors = mirrorAll || this.#unsynced.size > mirrorDueMax;
    for (const page of this.#unsynced) {
      if (page.dirty) {
        written.push({ page, slot: 1 - page.durableSlot, fresh: true });
      } else if (mirrors && page.mirrorDue) {
        written.push({ page, slot: 1 - page.durableSlot, fresh: false });
      }
    }
    if (written.length === 0) return;
    const images = written.map(({ page, fresh }) => {
      if (fresh) {
        page.generation++;
        page.dirty = false;
      }
      // Not evicted before the write is done: a second copy would be read from a slot in flight.
      page.pinCount++;
      return page.encode();
    });
    try {
      for (let at = 0; at < written.length; at += writeParallelMax) {
        const batch = written.slice(at, at + writeParallelMax);
        const results = await Promise.allSettled(
          batch.map(({ page, slot }, offset) => this.#file.write(images[at + offset]!, slotOffset(page.index, slot))),
        );
        for (const result of results) if (result.status === 'rejected') throw result.reason;
      }
      await this.#file.datasync();
    } catch (error) {
      for (const { page } of written) page.dirty = true;
      throw error;
    } finally {
      for (const { page } of written) page.pinCount--;
    }
    for (const { page, slot, fresh } of written) {
      if (fresh) page.durableSlot = slot;
      page.mirrorDue = fresh;
      if (!page.dirty && !page.mirrorDue) this.#unsynced.delete(page);
    }
  }

  /** Makes everything durable in both slots: from here a flipped bit in one of them is repaired from the other. */
  async settle(): Promise<void> {
    await this.sync();
    await this.sync(true);
  }

  forget(): void {
    this.#cache.deleteRange(this.#keyBase, this.#keyBase + keysPerDisk);
    this.#unsynced.clear();
  }

  async #load(index: number): Promise<DigestPage> {
    const running = this.#loading.get(index);
    if (running !== undefined) return running;
    const loading = this.#read(index);
    this.#loading.set(index, loading);
    try {
      return await loading;
    } finally {
      this.#loading.delete(index);
    }
  }

  async #read(index: number): Promise<DigestPage> {
    const pair = Buffer.alloc(2 * pageBytes);
    await this.#file.read(pair, slotOffset(index, 0));
    const page = decodePage(pair, index);
    if (page.mirrorDue) this.#unsynced.add(page);
    this.#cache.put(this.#keyBase + index, page);
    return page;
  }
}

function slotOffset(index: number, slot: number): number {
  return 2 * headerSlotBytes + (2 * index + slot) * pageBytes;
}

/** Refuses a read of bytes that do not match their digest. */
export function mismatch(path: string, disk: number, chunk: number): TidemarkError {
  return new TidemarkError(
    'replica-mismatch',
    `Disk ${disk}: the replica's 64 KiB chunk ${chunk} does not match its digest; it is not served.`,
    { path },
  );
}
