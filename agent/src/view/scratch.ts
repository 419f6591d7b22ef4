/**
 * Private copy-on-write data of a view: 4 KiB blocks in slots of `scratch.data`, found by a map that is logged in
 * `scratch.map`. Formats, flush rule and what a crash leaves: SCRATCH.md.
 */
import { Mutex } from '../core/mutex.js';
import { TidemarkError, isTidemarkError } from '../core/errors.js';
import { isPlanted } from '../core/planted.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import { keyCheckOf } from '../replica/digest-header.js';
import { SectorCipher } from '../replica/sector-cipher.js';
import { SectorFile } from '../replica/sector-file.js';
import { BlockMap, blockBytes, blocksPerPage, entryNone, entrySlot } from './block-map.js';
import { BatchType, encodePage, encodeRuns, pageRecordBytes, type MapRun } from './map-batch.js';
import { final, MapLog, type SnapshotBatch } from './map-log.js';

const purpose = 'tidemark scratch 1';
/** Map changes gathered between flushes; more make the writer flush. */
const pendingRunsMax = 65_536;
/** What a slot costs of the limit: its bytes and its record twice (log and rewrite). */
const slotCostBytes = blockBytes + 48;
/** What a map page costs: its record in log and rewrite. */
const pageCostBytes = 2560;
/** Growth of the log beyond twice its snapshot before it is rewritten. */
const logSlackBytes = 1024 * 1024;
const pagesPerBatch = 512;

export interface ScratchOptions {
  readonly storage: Storage;
  /** Holds `scratch.data` and `scratch.map`, of one view only. */
  readonly directory: string;
  readonly random: Random;
  /** 32-byte key at rest; undefined: plain. */
  readonly key?: Uint8Array | undefined;
  /** Bound of both files together. */
  readonly limitBytes: number;
}

/** A place for blocks: `count` slots from `firstSlot`. */
export interface SlotRun {
  readonly firstSlot: number;
  readonly count: number;
}

export class Scratch {
  readonly limitBytes: number;
  readonly #data: SectorFile;
  readonly #log: MapLog;
  readonly #maps = new Map<number, BlockMap>();
  readonly #flushing = new Mutex();
  #queuedFlush: Promise<void> | undefined;
  /** Slots below it are, or were, in use. */
  #slotEnd = 0;
  /** Free, and no durable map names them. */
  #free: number[] = [];
  /** Not needed any more, but a durable map may still name them. */
  #freed: number[] = [];
  #pending: MapRun[] = [];
  #dataDirty = false;
  #failure: Error | undefined;

  private constructor(options: ScratchOptions, data: SectorFile, log: MapLog) {
    this.limitBytes = options.limitBytes;
    this.#data = data;
    this.#log = log;
  }

  /** Makes empty files, durable on return; leftovers of a create that a crash cut short are replaced. */
  static async create(options: ScratchOptions): Promise<Scratch> {
    const { storage, directory, random, key } = options;
    await storage.makeDirectory(directory);
    await storage.remove(`${directory}/scratch.data`);
    const salt = random.bytes(16);
    const keyCheck = key === undefined ? undefined : keyCheckOf(salt, key);
    const file = await storage.open(`${directory}/scratch.data`, 'create');
    await storage.syncDirectory(directory);
    const log = await MapLog.create(storage, directory, { salt, keyCheck, snapshotBatches: 0 });
    return new Scratch(options, new SectorFile(file, cipherOf(key, salt)), log);
  }

  /** True when the directory holds a scratch. Bytes without a map mean that the map was lost: `scratch-corrupt`. */
  static async exists(storage: Storage, directory: string): Promise<boolean> {
    if (await storage.exists(`${directory}/scratch.map`)) return true;
    if (!(await storage.exists(`${directory}/scratch.data`))) return false;
    const file = await storage.open(`${directory}/scratch.data`, 'read');
    try {
      if ((await file.sizeBytes()) === 0) return false;
    } finally {
      await file.close();
    }
    throw new TidemarkError('scratch-corrupt', 'The map of the scratch is missing.', { path: directory });
  }

  /** Opens what a flush, a crash or a killed agent left. Throws `scratch-corrupt`, `encryption-key`, `format-version`. */
  static async open(options: ScratchOptions): Promise<Scratch> {
    const { storage, directory, key } = options;
    const file = await storage.open(`${directory}/scratch.data`, 'write');
    await file.datasync();
    const maps = new Map<number, BlockMap>();
    const mapOf = (disk: number): BlockMap => maps.get(disk) ?? maps.set(disk, new BlockMap()).get(disk)!;
    const log = await MapLog.open(storage, directory, {
      run: (run) => applyRun(mapOf(run.disk), run),
      page: (disk, index, entries) => mapOf(disk).setPage(index, entries),
    });
    const expected = key === undefined ? undefined : keyCheckOf(log.header.salt, key);
    const { keyCheck } = log.header;
    const same =
      expected === undefined
        ? keyCheck === undefined
        : keyCheck !== undefined && Buffer.compare(expected, keyCheck) === 0;
    if (!same)
      throw new TidemarkError('encryption-key', 'The scratch was written with another key, or with none.', {
        path: directory,
      });
    const scratch = new Scratch(options, new SectorFile(file, cipherOf(key, log.header.salt)), log);
    for (const [disk, map] of maps) scratch.#maps.set(disk, map);
    scratch.#findFreeSlots();
    // After a failed sync the cache may show a batch that the disk does not hold: written anew, it is there.
    if (log.batchCount > 0) await scratch.#rewriteLog(0);
    return scratch;
  }

  /** Bytes of the limit that are taken; freed slots count until they are used again. */
  get usedBytes(): number {
    return (this.#slotEnd - this.#free.length) * slotCostBytes + this.#pageCount() * pageCostBytes;
  }

  get encrypted(): boolean {
    return this.#data.encrypted;
  }

  get failed(): boolean {
    return this.#failure !== undefined;
  }

  map(disk: number): BlockMap {
    let map = this.#maps.get(disk);
    if (map === undefined) this.#maps.set(disk, (map = new BlockMap()));
    return map;
  }

  /** Reads consecutive slots. The caller checks afterwards that the map still says so. */
  readSlots(firstSlot: number, skipBytes: number, target: Uint8Array): Promise<void> {
    this.#check();
    return this.#data.read(target, firstSlot * blockBytes + skipBytes);
  }

  /** Overwrites mapped slots in place. Whole blocks. */
  async writeSlots(firstSlot: number, pieces: readonly Uint8Array[]): Promise<void> {
    this.#check();
    this.#dataDirty = true;
    await this.#data.write(pieces, firstSlot * blockBytes);
    this.#dataDirty = true;
  }

  /** Takes slots for `count` blocks of a disk, as few runs as possible; flushes once when only that frees room. Throws `scratch-full`. */
  async allocate(disk: number, firstBlock: number, count: number): Promise<SlotRun[]> {
    this.#check();
    if (this.#pending.length >= pendingRunsMax) await this.flush();
    if (!this.#hasRoom(disk, firstBlock, count) && this.#freed.length > 0) await this.flush();
    if (!this.#hasRoom(disk, firstBlock, count)) {
      throw new TidemarkError('scratch-full', `The view's scratch reached its limit of ${this.limitBytes} bytes.`);
    }
    const runs: SlotRun[] = [];
    // Long runs at the end keep big writes sequential; what was freed serves single blocks and a full file.
    const growable = this.#growableSlots(disk, firstBlock, count);
    const grown = count > 1 || this.#free.length === 0 ? Math.min(count, growable) : 0;
    if (grown > 0) {
      runs.push({ firstSlot: this.#slotEnd, count: grown });
      this.#slotEnd += grown;
    }
    for (let taken = grown; taken < count; taken++) runs.push({ firstSlot: this.#free.pop()!, count: 1 });
    return runs;
  }

  /** Gives slots back that were never mapped (their write failed). */
  giveBack(run: SlotRun): void {
    for (let slot = run.firstSlot; slot < run.firstSlot + run.count; slot++) this.#free.push(slot);
  }

  /** Maps blocks to slots whose bytes were written. */
  mapSlots(disk: number, firstBlock: number, run: SlotRun): void {
    const map = this.map(disk);
    for (let i = 0; i < run.count; i++) {
      const old = map.set(firstBlock + i, run.firstSlot + i + entrySlot);
      if (old >= entrySlot) this.#freed.push(old - entrySlot);
    }
    const last = this.#pending.at(-1);
    const follows =
      last?.firstSlot !== undefined &&
      last.disk === disk &&
      last.firstBlock + last.count === firstBlock &&
      last.firstSlot + last.count === run.firstSlot;
    if (follows) this.#pending[this.#pending.length - 1] = { ...last, count: last.count + run.count };
    else this.#pending.push({ disk, firstBlock, ...run });
  }

  /** Makes whole blocks read as zeros. Throws `scratch-full` when not even the record fits. */
  async mapZeros(disk: number, firstBlock: number, count: number): Promise<void> {
    this.#check();
    if (this.#pending.length >= pendingRunsMax) await this.flush();
    if (this.usedBytes + 4 * pageCostBytes > this.limitBytes && this.#freed.length === 0) {
      const known = this.map(disk);
      const costless = known.get(firstBlock) !== entryNone && known.get(firstBlock + count - 1) !== entryNone;
      if (!costless)
        throw new TidemarkError('scratch-full', `The view's scratch reached its limit of ${this.limitBytes} bytes.`);
    }
    this.map(disk).zero(firstBlock, count, (slot) => this.#freed.push(slot));
    this.#pending.push({ disk, firstBlock, count, firstSlot: undefined });
  }

  /**
   * Makes every change completed before the call durable: data, then map. Throws `storage-full` when the map found no
   * room (a later flush tries again); any other failure stays until the scratch is opened again.
   */
  flush(): Promise<void> {
    // One flush runs, one waits; every caller that comes meanwhile shares the one that waits.
    this.#queuedFlush ??= this.#flushing.run(() => {
      this.#queuedFlush = undefined;
      return this.#flush();
    });
    return this.#queuedFlush;
  }

  async close(): Promise<void> {
    await this.#flushing.run(async () => {
      await this.#data.close();
      await this.#log.close();
    });
  }

  async #flush(): Promise<void> {
    this.#check();
    const pending = this.#pending;
    const freed = this.#freed;
    const dirty = this.#dataDirty;
    this.#pending = [];
    this.#freed = [];
    this.#dataDirty = false;
    try {
      if (isPlanted('scratch-map-before-data') && pending.length > 0) await this.#log.append(pending);
      if (dirty || pending.length > 0) await final(this.#data.datasync());
      if (!isPlanted('scratch-map-before-data') && pending.length > 0) await this.#log.append(pending);
    } catch (error) {
      if (!isTidemarkError(error, 'storage-full')) this.#failure = error as Error;
      this.#pending = [...pending, ...this.#pending];
      this.#freed = [...freed, ...this.#freed];
      this.#dataDirty = true;
      throw error;
    }
    // A loop, not push(...): a discard of a full scratch frees more slots than a call takes arguments.
    for (const slot of freed) this.#free.push(slot);
    await this.#rewriteLog(2 * this.#pageCount() * pageRecordBytes + logSlackBytes);
  }

  async #rewriteLog(fromBytes: number): Promise<void> {
    if (this.#log.endBytes < fromBytes) return;
    try {
      await this.#log.rewrite(this.#snapshot(), () => final(this.#data.datasync()));
    } catch (error) {
      // The old log is whole as long as the rename did not happen; that is known only for a lack of room.
      if (!isTidemarkError(error, 'storage-full')) {
        this.#failure = error as Error;
        throw error;
      }
    }
  }

  /** The map as it is when each batch is taken; changes made meanwhile are pending and follow in the next batch. */
  *#snapshot(): Generator<SnapshotBatch> {
    const runs: MapRun[] = [];
    const records: Buffer[] = [];
    for (const [disk, map] of this.#maps) {
      for (const { index, count, entries } of map.pages()) {
        if (entries === undefined)
          runs.push({ disk, firstBlock: index * blocksPerPage, count: count * blocksPerPage, firstSlot: undefined });
        else records.push(encodePage(disk, index, entries));
        if (records.length >= pagesPerBatch) yield { type: BatchType.pages, payload: Buffer.concat(records.splice(0)) };
        if (runs.length >= pendingRunsMax) yield { type: BatchType.runs, payload: encodeRuns(runs.splice(0)) };
      }
    }
    if (records.length > 0) yield { type: BatchType.pages, payload: Buffer.concat(records) };
    if (runs.length > 0) yield { type: BatchType.runs, payload: encodeRuns(runs) };
  }

  #pageCount(): number {
    let count = 0;
    for (const map of this.#maps.values()) count += map.pageCount;
    return count;
  }

  /** Slots by which the file may grow when these blocks are mapped, their map pages set aside. */
  #growableSlots(disk: number, firstBlock: number, count: number): number {
    const map = this.map(disk);
    let pages = this.#pageCount();
    const end = Math.floor((firstBlock + count - 1) / blocksPerPage);
    for (let page = Math.floor(firstBlock / blocksPerPage); page <= end; page++)
      if (map.page(page) === undefined) pages++;
    return Math.max(0, Math.floor((this.limitBytes - pages * pageCostBytes) / slotCostBytes) - this.#slotEnd);
  }

  #hasRoom(disk: number, firstBlock: number, count: number): boolean {
    return this.#growableSlots(disk, firstBlock, count) + this.#free.length >= count;
  }

  #findFreeSlots(): void {
    let end = 0;
    const used: number[] = [];
    const see = (entry: number): void => {
      if (entry < entrySlot) return;
      const slot = entry - entrySlot;
      used[slot >>> 5] = (used[slot >>> 5] ?? 0) | (1 << (slot & 31));
      end = Math.max(end, slot + 1);
    };
    for (const map of this.#maps.values()) for (const page of map.pages()) page.entries?.forEach(see);
    this.#slotEnd = end;
    for (let slot = 0; slot < end; slot++)
      if (((used[slot >>> 5] ?? 0) & (1 << (slot & 31))) === 0) this.#free.push(slot);
  }

  #check(): void {
    if (this.#failure === undefined) return;
    throw new TidemarkError('storage-io', 'The scratch could not be made durable; open the view again.', {
      cause: this.#failure,
    });
  }
}

function applyRun(map: BlockMap, run: MapRun): void {
  if (run.firstSlot === undefined) {
    map.zero(run.firstBlock, run.count, () => undefined);
    return;
  }
  for (let i = 0; i < run.count; i++) map.set(run.firstBlock + i, run.firstSlot + i + entrySlot);
}

function cipherOf(key: Uint8Array | undefined, salt: Uint8Array): SectorCipher | undefined {
  return key === undefined ? undefined : new SectorCipher(key, salt, purpose);
}
