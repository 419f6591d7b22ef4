/** The replicas of a group's disks as the group uses them: base data, promotion, digests, reads at a cut. */
import type { Clock } from '../core/clock.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { Vector } from '../journal/position.js';
import type { Journal, JournalCut } from '../journal/types.js';
import { Replica } from '../replica/replica.js';
import type { PromoteResult } from '../replica/promote.js';
import { digestChunkBytes } from '../stream/messages.js';
import { CutDisk } from '../view/cut-disk.js';
import type { GroupDisk } from './manifest.js';
import type { BaseTarget } from './ingest.js';

export interface ReplicaSetOptions {
  readonly storage: Storage;
  readonly clock: Clock;
  readonly random: Random;
  /** The group's directory; replicas lie in `replica/` below it. */
  readonly directory: string;
  readonly key: Uint8Array | undefined;
  readonly journal: Journal;
  /** Those whose images must be there. */
  readonly disks: readonly GroupDisk[];
  /** Disks of which nothing is needed any more. */
  readonly disksPast: readonly number[];
}

export class ReplicaSet implements BaseTarget {
  private readonly touched = new Set<number>();

  private constructor(
    readonly replica: Replica,
    private readonly journal: Journal,
  ) {}

  /** Opens every disk; makes the empty replica of one that has none yet, grows one that a crash left small. */
  static async open(options: ReplicaSetOptions): Promise<ReplicaSet> {
    const { storage, clock, random, key } = options;
    const directory = `${options.directory}/replica`;
    await storage.makeDirectory(directory);
    const names = new Set(await storage.list(directory));
    const isThere = ({ index }: GroupDisk): boolean => names.has(`${index}.digests`) && names.has(`${index}.raw`);
    const replica = await Replica.open(
      { storage, directory, clock, random, ...(key === undefined ? {} : { key }) },
      options.disks.filter(isThere).map(({ index }) => index),
    );
    const set = new ReplicaSet(replica, options.journal);
    for (const disk of options.disks) await set.ensure(disk);
    for (const index of options.disksPast)
      if (names.has(`${index}.raw`) || names.has(`${index}.digests`)) await replica.remove(index);
    return set;
  }

  /** The disk's image is there with its size, durably, when it returns. Idempotent. */
  async ensure({ index, name, sizeBytes }: Pick<GroupDisk, 'index' | 'name' | 'sizeBytes'>): Promise<void> {
    if (!this.replica.diskIndexes.includes(index)) await this.replica.create(index, name, sizeBytes);
    else if (this.replica.disk(index).sizeBytes < sizeBytes) await this.replica.resize(index, sizeBytes);
  }

  /** Deletes images that nothing needs any more. */
  async drop(indexes: readonly number[]): Promise<void> {
    for (const index of indexes) if (this.has(index)) await this.replica.remove(index);
  }

  async applyBase(disk: number, offsetBytes: number, bytes: Uint8Array): Promise<void> {
    this.touched.add(disk);
    await this.replica.disk(disk).applyBase(offsetBytes, bytes);
  }

  async flushBase(): Promise<void> {
    for (const disk of [...this.touched]) {
      await this.replica.disk(disk).flushBase();
      this.touched.delete(disk);
    }
  }

  async promote(through: Vector): Promise<PromoteResult> {
    const cut = await this.journal.cut(through);
    try {
      return await this.replica.promote(cut);
    } finally {
      cut.release();
    }
  }

  digests(disk: number, firstChunk: number, count: number): Promise<Uint8Array> {
    return this.replica.disk(disk).digestsOf(firstChunk, count);
  }

  /** Checks every chunk of every disk against its digest; what does not match is refused from now on. */
  async verify(
    onProgress: (doneBytes: number) => void,
    signal: AbortSignal,
  ): Promise<{ disk: number; chunk: number }[]> {
    const damaged: { disk: number; chunk: number }[] = [];
    let doneBytes = 0;
    for (const index of this.replica.diskIndexes) {
      // A removed disk whose image nothing needs any more may go meanwhile.
      for (let chunk = 0; this.has(index) && chunk < this.replica.disk(index).chunkCount; chunk++) {
        signal.throwIfAborted();
        if (!(await this.isWhole(index, chunk))) damaged.push({ disk: index, chunk });
        doneBytes += digestChunkBytes;
        if (chunk % 256 === 255) onProgress(doneBytes);
      }
    }
    return damaged.filter(({ disk }) => this.has(disk));
  }

  private has(disk: number): boolean {
    return this.replica.diskIndexes.includes(disk);
  }

  private async isWhole(disk: number, chunk: number): Promise<boolean> {
    try {
      return await this.replica.disk(disk).check(chunk);
    } catch (error) {
      if (this.has(disk)) throw error;
      return true;
    }
  }

  /** True when nothing but zeros was ever written to the disk's replica. */
  async isEmpty(disk: number): Promise<boolean> {
    const { sizeBytes } = this.replica.disk(disk);
    const run = await this.replica.disk(disk).run(0, sizeBytes);
    return run.zero && run.lengthBytes === sizeBytes;
  }

  /** The disk's bytes at the cut. */
  readAt(cut: JournalCut, disk: number, target: Uint8Array, offsetBytes: number): Promise<void> {
    const replica = this.replica.disk(disk);
    return new CutDisk(cut, replica, replica.sizeBytes).read(target, offsetBytes);
  }

  close(): Promise<void> {
    return this.replica.close();
  }
}
