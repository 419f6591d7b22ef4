/** The scratch map log on storage: read, append one batch for each flush, rewrite as a snapshot. See SCRATCH.md. */
import { TidemarkError } from '../core/errors.js';
import type { Storage, StorageFile } from '../core/storage.js';
import {
  BatchType,
  batchHeaderBytes,
  decodeMapHeader,
  decodePages,
  decodeRuns,
  encodeBatch,
  encodeMapHeader,
  encodeRuns,
  isBatchValid,
  mapHeaderBytes,
  peekBatch,
  type MapHeader,
  type MapRun,
} from './map-batch.js';

/** How far behind a bad batch a later good one is searched for, to tell damage from a torn tail. */
const damageSearchBytes = 8 * 1024 * 1024;

/** What a reader of the log does with its contents, in order. */
export interface MapSink {
  run(run: MapRun): void;
  page(disk: number, index: number, entries: Uint32Array): void;
}

export interface SnapshotBatch {
  readonly type: BatchType;
  readonly payload: Buffer;
}

export class MapLog {
  readonly #storage: Storage;
  readonly #directory: string;
  readonly header: MapHeader;
  #file: StorageFile;
  #sequence = 0;
  /** End of the durable batches. */
  endBytes = mapHeaderBytes;

  private constructor(storage: Storage, directory: string, file: StorageFile, header: MapHeader) {
    this.#storage = storage;
    this.#directory = directory;
    this.#file = file;
    this.header = header;
  }

  /** An empty log, whole from the moment its name is there; durable on return. */
  static async create(storage: Storage, directory: string, header: MapHeader): Promise<MapLog> {
    const path = `${directory}/scratch.map.new`;
    await storage.remove(path);
    const file = await storage.open(path, 'create');
    await file.write(encodeMapHeader(header), 0);
    await file.datasync();
    await storage.rename(path, `${directory}/scratch.map`);
    await storage.syncDirectory(directory);
    return new MapLog(storage, directory, file, header);
  }

  /** Reads every batch into `sink`; a torn last batch is cut off, damage below it throws `scratch-corrupt`. */
  static async open(storage: Storage, directory: string, sink: MapSink): Promise<MapLog> {
    const path = `${directory}/scratch.map`;
    await storage.remove(`${directory}/scratch.map.new`);
    const file = await storage.open(path, 'write');
    try {
      // What a killed process, or a create that failed at its end, left in the operating system's cache counts as
      // written only from here, its name too.
      await file.datasync();
      await storage.syncDirectory(directory);
      const bytes = Buffer.alloc(mapHeaderBytes);
      await file.read(bytes, 0);
      const log = new MapLog(storage, directory, file, decodeMapHeader(bytes, path));
      await log.#replay(sink, path);
      return log;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Appends one batch, durable on return. Only after `storage-full` it may be called again, for the same place. */
  async append(runs: readonly MapRun[]): Promise<void> {
    const batch = encodeBatch(BatchType.runs, this.#sequence + 1, this.header.salt, encodeRuns(runs));
    await this.#file.write(batch, this.endBytes);
    await final(this.#file.datasync());
    this.#sequence++;
    this.endBytes += batch.length;
  }

  /** Replaces the log by a snapshot. `beforeRename` makes the data durable that the snapshot may name. */
  async rewrite(batches: Iterable<SnapshotBatch>, beforeRename: () => Promise<void>): Promise<void> {
    const path = `${this.#directory}/scratch.map.new`;
    await this.#storage.remove(path);
    const file = await this.#storage.open(path, 'create');
    let sequence = 0;
    let endBytes = mapHeaderBytes;
    try {
      for (const { type, payload } of batches) {
        const batch = encodeBatch(type, ++sequence, this.header.salt, payload);
        await file.write(batch, endBytes);
        endBytes += batch.length;
      }
      await file.write(encodeMapHeader({ ...this.header, snapshotBatches: sequence }), 0);
      await beforeRename();
      await file.datasync();
      await final(this.#storage.rename(path, `${this.#directory}/scratch.map`));
      await final(this.#storage.syncDirectory(this.#directory));
    } catch (error) {
      await file.close();
      throw error;
    }
    const old = this.#file;
    this.#file = file;
    this.#sequence = sequence;
    this.endBytes = endBytes;
    await old.close();
  }

  get batchCount(): number {
    return this.#sequence;
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  async #replay(sink: MapSink, path: string): Promise<void> {
    const size = await this.#file.sizeBytes();
    for (;;) {
      const batch = await this.#readBatch(this.endBytes, this.#sequence + 1);
      if (batch === undefined) break;
      if (batch.type === BatchType.runs) for (const run of decodeRuns(batch.payload)) sink.run(run);
      else for (const page of decodePages(batch.payload)) sink.page(page.disk, page.index, page.entries);
      this.#sequence++;
      this.endBytes += batchHeaderBytes + batch.payload.length;
    }
    const damaged = this.#sequence < this.header.snapshotBatches || (await this.#laterBatchExists(size));
    if (damaged)
      throw new TidemarkError('scratch-corrupt', `Batch ${this.#sequence + 1} of the scratch map is damaged.`, {
        path,
      });
  }

  async #readBatch(at: number, sequence: number): Promise<{ type: BatchType; payload: Buffer } | undefined> {
    const header = Buffer.alloc(batchHeaderBytes);
    if ((await this.#file.read(header, at)) < batchHeaderBytes) return undefined;
    const claim = peekBatch(header, this.header.salt);
    if (claim === undefined || claim.sequence !== sequence) return undefined;
    const payload = Buffer.alloc(claim.payloadBytes);
    if ((await this.#file.read(payload, at + batchHeaderBytes)) < payload.length) return undefined;
    return isBatchValid(header, payload) ? { type: claim.type, payload } : undefined;
  }

  /** A batch is written only after the one before it is durable: a good one behind a bad one means damage. */
  async #laterBatchExists(size: number): Promise<boolean> {
    const tail = Buffer.alloc(Math.max(0, Math.min(size - this.endBytes, damageSearchBytes)));
    await this.#file.read(tail, this.endBytes);
    for (let at = 1; at + batchHeaderBytes <= tail.length; at++) {
      if (tail[at] !== 0x54) continue;
      const header = tail.subarray(at, at + batchHeaderBytes);
      const claim = peekBatch(header, this.header.salt);
      if (claim === undefined || claim.sequence <= this.#sequence + 1) continue;
      const payload = tail.subarray(at + batchHeaderBytes, at + batchHeaderBytes + claim.payloadBytes);
      if (payload.length === claim.payloadBytes && isBatchValid(header, payload)) return true;
    }
    return false;
  }
}

/** A sync or rename that failed leaves an unknown state, even for lack of room: never `storage-full`, which may be tried again. */
export async function final(step: Promise<void>): Promise<void> {
  try {
    await step;
  } catch (cause) {
    throw new TidemarkError('storage-io', 'The scratch could not be made durable.', { cause });
  }
}
