/** The replica of a group: one raw image and one digest file for each disk, under one bound of memory. See REPLICA.md. */
import { Mutex } from '../core/mutex.js';
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { invariant } from '../core/invariant.js';
import type { Random } from '../core/random.js';
import type { Storage, StorageFile } from '../core/storage.js';
import type { JournalCut } from '../journal/types.js';
import { chunkBytes } from './digest.js';
import { DigestFile, PageCache } from './digest-file.js';
import { decodeHeader, encodeHeader, headerSlotBytes, keyCheckOf, type DigestHeader } from './digest-header.js';
import { promoteDisk, type PromoteOptions, type PromoteResult } from './promote.js';
import { ReplicaDisk } from './replica-disk.js';
import { SectorCipher } from './sector-cipher.js';
import { SectorFile } from './sector-file.js';

const purpose = 'tidemark replica 1';

export interface ReplicaOptions {
  readonly storage: Storage;
  /** Holds `<disk index>.raw` and `<disk index>.digests`. */
  readonly directory: string;
  readonly clock: Clock;
  readonly random: Random;
  /** 32-byte key at rest; undefined: plain. Every disk is written with it. */
  readonly key?: Uint8Array | undefined;
  /** Digest pages in memory, 4 KiB each for 15.8 MiB of disk. Default 4096 (64 GiB of disk, 18 MiB of memory). */
  readonly cachePagesMax?: number;
  /** A chunk that was checked is believed for this long. Default 10 minutes; 0: checked at every read. */
  readonly verifyIntervalMs?: number;
}

interface OpenDisk {
  readonly disk: ReplicaDisk;
  readonly headerFile: StorageFile;
  header: DigestHeader;
}

export class Replica {
  readonly #options: ReplicaOptions;
  readonly #cache: PageCache;
  readonly #disks = new Map<number, OpenDisk>();
  readonly #changes = new Mutex();
  /** A chunk was found damaged by a read or a promotion, and is refused from now on. */
  onDamaged: (disk: number, chunk: number) => void = () => undefined;

  private constructor(options: ReplicaOptions) {
    this.#options = options;
    this.#cache = new PageCache(options.cachePagesMax ?? 4096);
  }

  /** Opens the disks named; makes the directory when it is missing. */
  static async open(options: ReplicaOptions, diskIndexes: readonly number[]): Promise<Replica> {
    await options.storage.makeDirectory(options.directory);
    const replica = new Replica(options);
    try {
      for (const index of diskIndexes) await replica.#open(index);
    } catch (error) {
      await replica.close();
      throw error;
    }
    return replica;
  }

  get diskIndexes(): number[] {
    return [...this.#disks.keys()].sort((a, b) => a - b);
  }

  /** Throws `disk-unknown`. */
  disk(index: number): ReplicaDisk {
    const open = this.#disks.get(index);
    if (open === undefined)
      throw new TidemarkError('disk-unknown', `The replica has no disk ${index}.`, { path: this.#options.directory });
    return open.disk;
  }

  /** Makes an empty (all zeros) image, durable on return. Leftovers of a create that a crash cut short are replaced. */
  create(index: number, name: string, sizeBytes: number): Promise<ReplicaDisk> {
    return this.#changes.run(async () => {
      invariant(!this.#disks.has(index), `disk ${index} is open already`);
      invariant(Number.isSafeInteger(sizeBytes) && sizeBytes > 0, 'size of a disk');
      const { storage, directory, random, key } = this.#options;
      await storage.remove(this.#path(index, 'digests'));
      await storage.remove(this.#path(index, 'raw'));
      const unfinished = `${this.#path(index, 'digests')}.new`;
      await storage.remove(unfinished);
      await storage.syncDirectory(directory);
      const salt = random.bytes(16);
      const keyCheck = key === undefined ? undefined : keyCheckOf(salt, key);
      const raw = await storage.open(this.#path(index, 'raw'), 'create');
      const digests = await storage.open(unfinished, 'create');
      try {
        await raw.truncate(imageBytes(sizeBytes));
        await raw.datasync();
        const image = encodeHeader({ generation: 1, sizeBytes, salt, keyCheck, name });
        await digests.writeAll([image, image], 0);
        await digests.datasync();
      } finally {
        await raw.close();
        await digests.close();
      }
      await storage.syncDirectory(directory);
      // The name comes last: a digest file that is there is whole, and so is its image.
      await storage.rename(unfinished, this.#path(index, 'digests'));
      await storage.syncDirectory(directory);
      return this.#open(index);
    });
  }

  /** Grows a disk; what is new reads as zeros. Durable on return; after a crash in the middle call it again. */
  resize(index: number, sizeBytes: number): Promise<void> {
    return this.#changes.run(async () => {
      const open = this.#disks.get(index);
      if (open === undefined) throw new TidemarkError('disk-unknown', `The replica has no disk ${index}.`);
      if (sizeBytes === open.header.sizeBytes) return;
      if (sizeBytes < open.header.sizeBytes) {
        throw new TidemarkError('illegal-state', `Disk ${open.header.name} cannot shrink to ${sizeBytes} bytes.`);
      }
      await open.disk.data.truncate(imageBytes(sizeBytes));
      await open.disk.data.datasync();
      const header = { ...open.header, sizeBytes, generation: open.header.generation + 1 };
      await writeHeader(open.headerFile, header);
      open.header = header;
      open.disk.grown(sizeBytes);
    });
  }

  /**
   * Gives an empty disk an image that shares the blocks of a raw file, which is not larger. The bytes count when their
   * digests are there (`adopt`). False: not possible here, nothing was changed.
   */
  clone(index: number, from: string): Promise<boolean> {
    return this.#changes.run(async () => {
      const { storage, directory, key } = this.#options;
      const open = this.#disks.get(index);
      if (open === undefined || key !== undefined || storage.clone === undefined) return false;
      const path = this.#path(index, 'raw');
      await storage.remove(`${path}.new`);
      if (!(await storage.clone(from, `${path}.new`))) return false;
      const image = await storage.open(`${path}.new`, 'write');
      try {
        await image.truncate(imageBytes(open.header.sizeBytes));
        await image.datasync();
      } finally {
        await image.close();
      }
      await this.#close(index);
      await storage.rename(`${path}.new`, path);
      await storage.syncDirectory(directory);
      await this.#open(index);
      return true;
    });
  }

  /** Deletes a disk's files, durable on return. No view may read it any more. */
  remove(index: number): Promise<void> {
    return this.#changes.run(async () => {
      const { storage, directory } = this.#options;
      await this.#close(index);
      await storage.remove(this.#path(index, 'raw'));
      await storage.remove(this.#path(index, 'digests'));
      await storage.syncDirectory(directory);
    });
  }

  /**
   * Applies the cut to every disk; durable, digests included, on return. The caller wrote `promoting` before and writes
   * `promoted` after; after a throw or a crash in between it calls this again with the same cut.
   */
  async promote(cut: JournalCut, options: PromoteOptions = {}): Promise<PromoteResult> {
    const result: PromoteResult = { pieceCount: 0, dataBytes: 0, writtenBytes: 0, damaged: [] };
    for (const index of this.diskIndexes) await promoteDisk(this.disk(index), cut, result, options);
    for (const index of this.diskIndexes) await this.disk(index).settle();
    for (const { disk, chunk } of result.damaged) this.onDamaged(disk, chunk);
    return result;
  }

  async close(): Promise<void> {
    for (const index of this.diskIndexes) await this.#close(index);
  }

  async #close(index: number): Promise<void> {
    const open = this.#disks.get(index);
    if (open === undefined) return;
    this.#disks.delete(index);
    open.disk.digests.forget();
    await open.disk.data.close();
    await open.headerFile.close();
  }

  async #open(index: number): Promise<ReplicaDisk> {
    const { storage, key, clock, verifyIntervalMs } = this.#options;
    const path = this.#path(index, 'digests');
    const digestsFile = await storage.open(path, 'write');
    try {
      const header = await readHeader(digestsFile, path);
      checkKey(header, key, path);
      const cipher = key === undefined ? undefined : new SectorCipher(key, header.salt, purpose);
      const data = new SectorFile(await storage.open(this.#path(index, 'raw'), 'write', { bulk: true }), cipher);
      // What a killed process left in the operating system's cache counts as written only from here.
      await data.datasync();
      await digestsFile.datasync();
      const disk = new ReplicaDisk(
        {
          index,
          name: header.name,
          path: this.#path(index, 'raw'),
          data,
          digests: new DigestFile(digestsFile, this.#cache, index),
          clock,
          verifyIntervalMs: verifyIntervalMs ?? 600_000,
          onDamaged: (chunk) => this.onDamaged(index, chunk),
        },
        header.sizeBytes,
      );
      this.#disks.set(index, { disk, headerFile: digestsFile, header });
      return disk;
    } catch (error) {
      await digestsFile.close();
      throw error;
    }
  }

  #path(index: number, kind: 'raw' | 'digests'): string {
    return `${this.#options.directory}/${index}.${kind}`;
  }
}

/** Images are whole chunks long: the tail of a short last chunk is zeros. */
function imageBytes(sizeBytes: number): number {
  return Math.ceil(sizeBytes / chunkBytes) * chunkBytes;
}

async function readHeader(file: StorageFile, path: string): Promise<DigestHeader> {
  const pair = Buffer.alloc(2 * headerSlotBytes);
  await file.read(pair, 0);
  const first = decodeHeader(pair.subarray(0, headerSlotBytes), path);
  const second = decodeHeader(pair.subarray(headerSlotBytes), path);
  const newest = (second?.generation ?? 0) > (first?.generation ?? 0) ? second : first;
  if (newest === undefined)
    throw new TidemarkError('replica-mismatch', 'Both headers of the digest file are damaged.', { path });
  if (first === undefined || second === undefined || first.generation !== second.generation)
    await writeHeader(file, newest);
  return newest;
}

/** One slot after the other, each durable before the next: a crash leaves one whole. */
async function writeHeader(file: StorageFile, header: DigestHeader): Promise<void> {
  const image = encodeHeader(header);
  await file.write(image, 0);
  await file.datasync();
  await file.write(image, headerSlotBytes);
  await file.datasync();
}

function checkKey(header: DigestHeader, key: Uint8Array | undefined, path: string): void {
  const expected = key === undefined ? undefined : keyCheckOf(header.salt, key);
  const { keyCheck } = header;
  const same =
    expected === undefined
      ? keyCheck === undefined
      : keyCheck !== undefined && Buffer.compare(expected, keyCheck) === 0;
  if (!same)
    throw new TidemarkError('encryption-key', 'The replica was written with another key, or with none.', { path });
}
