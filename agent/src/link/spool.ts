/**
 * The spool: encoded blocks that memory has no room for, in files `spool-<number>` of one directory. A file is written
 * from its start to its end, read back by position, and removed when nothing in it is needed: so what goes together lies
 * together, and the parts of a folded range have files of their own. Nothing here is durable: a restart begins a new
 * incarnation, so `open` empties the directory. Blocks carry their own checksums.
 */
import { decodeHeader, type Block, decodeBlock, peekTableEnd, type BlockHeader } from '../block/block.js';
import { Mutex } from '../core/mutex.js';
import type { Storage, StorageFile } from '../core/storage.js';
import { TidemarkError } from '../core/errors.js';
import { bytesOfBlock, type EncodedBlock } from './encoded-block.js';

/** What is needed, and goes, as a whole. */
export type SpoolRun = object;

interface SpoolFile {
  readonly path: string;
  readonly handle: StorageFile;
  /** Undefined: of items that go one by one, oldest first. */
  readonly run: SpoolRun | undefined;
  sizeBytes: number;
  liveBytes: number;
  /** Reads under way; the file stays open for them. */
  readers: number;
  full: boolean;
}

/** Where one block lies. */
export interface SpoolExtent {
  readonly file: object;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Header and record table. */
  readonly tableBytes: number;
}

export interface SpoolOptions {
  readonly storage: Storage;
  readonly directory: string;
  /** Bound over all files; 0: no spool. */
  readonly capacityBytes: number;
  readonly fileBytes: number;
}

export class Spool {
  private readonly options: SpoolOptions;
  private readonly mutex = new Mutex();
  private files: SpoolFile[] = [];
  private nextNumber = 1;
  /** Bytes of all files, dead ones within them included. */
  usedBytes = 0;

  constructor(options: SpoolOptions) {
    this.options = options;
  }

  get capacityBytes(): number {
    return this.options.capacityBytes;
  }

  /** Bytes of blocks that are still needed. */
  get liveBytes(): number {
    return this.files.reduce((sum, file) => sum + file.liveBytes, 0);
  }

  hasRoom(bytes: number): boolean {
    return this.usedBytes + bytes <= this.options.capacityBytes;
  }

  /** Makes the directory and removes what an earlier start left. */
  async open(): Promise<void> {
    const { storage, directory, capacityBytes } = this.options;
    if (capacityBytes === 0) return;
    await storage.makeDirectory(directory);
    for (const name of await storage.list(directory)) {
      if (/^spool-\d+$/.test(name)) await storage.remove(`${directory}/${name}`);
    }
  }

  /** Throws a storage error, and `storage-full` when the bound is reached; the spool stays usable. */
  append(block: EncodedBlock, run?: SpoolRun): Promise<SpoolExtent> {
    return this.mutex.run(async () => {
      const lengthBytes = bytesOfBlock(block);
      if (!this.hasRoom(lengthBytes)) throw new TidemarkError('storage-full', 'The spool is at its bound.');
      const file = await this.writable(run);
      const offsetBytes = file.sizeBytes;
      try {
        await file.handle.writeAll(block, offsetBytes);
      } catch (error) {
        file.full = true;
        this.removeWhenDead(file);
        throw error;
      }
      file.sizeBytes += lengthBytes;
      file.liveBytes += lengthBytes;
      this.usedBytes += lengthBytes;
      if (file.sizeBytes >= this.options.fileBytes) file.full = true;
      const [header, table] = block as [Uint8Array, Uint8Array];
      return { file, offsetBytes, lengthBytes, tableBytes: header.length + table.length };
    });
  }

  /** Reads a block back and checks it. Throws. */
  async read(extent: SpoolExtent): Promise<Block> {
    return decodeBlock(await this.readBytes(extent, extent.lengthBytes));
  }

  /** Reads header and records only. Throws. */
  async readTable(extent: SpoolExtent): Promise<{ header: BlockHeader; table: Uint8Array }> {
    const bytes = await this.readBytes(extent, extent.tableBytes);
    if (peekTableEnd(bytes) !== bytes.length) throw new TidemarkError('storage-io', 'A spooled block was damaged.');
    return decodeHeader(bytes);
  }

  free(extent: SpoolExtent): void {
    const file = extent.file as SpoolFile;
    file.liveBytes -= extent.lengthBytes;
    this.removeWhenDead(file);
  }

  async close(): Promise<void> {
    await this.mutex.run(async () => {
      for (const file of this.files.splice(0)) await file.handle.close().catch(() => undefined);
    });
  }

  private async readBytes(extent: SpoolExtent, bytes: number): Promise<Uint8Array> {
    const target = new Uint8Array(bytes);
    const file = extent.file as SpoolFile;
    file.readers++;
    const count = await file.handle.read(target, extent.offsetBytes).finally(() => {
      file.readers--;
      this.removeWhenDead(file);
    });
    if (count !== bytes) throw new TidemarkError('storage-io', 'A spool file is shorter than what was written.');
    return target;
  }

  /** Nothing more is appended to it. */
  end(run: SpoolRun): void {
    for (const file of this.files) if (file.run === run) file.full = true;
  }

  private async writable(run: SpoolRun | undefined): Promise<SpoolFile> {
    const last = this.files.findLast((file) => file.run === run && !file.full);
    if (last !== undefined) return last;
    const path = `${this.options.directory}/spool-${this.nextNumber++}`;
    const handle = await this.options.storage.open(path, 'create', { bulk: true });
    const file: SpoolFile = { path, handle, run, sizeBytes: 0, liveBytes: 0, readers: 0, full: false };
    this.files.push(file);
    return file;
  }

  private removeWhenDead(file: SpoolFile): void {
    if (file.liveBytes > 0 || file.readers > 0 || (!file.full && file.sizeBytes === 0)) return;
    // A file whose blocks are all gone is not written on: its space is given back at once.
    file.full = true;
    void this.mutex.run(async () => {
      if (file.liveBytes > 0 || file.readers > 0 || !this.files.includes(file)) return;
      this.files = this.files.filter((other) => other !== file);
      try {
        await file.handle.close();
        await this.options.storage.remove(file.path);
      } catch {
        // The bytes stay until the next start empties the directory; the bound is counted without them.
      }
      this.usedBytes -= file.sizeBytes;
    });
  }
}
