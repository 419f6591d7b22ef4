/** The replicas of a group's disks as the group uses them: base data, promotion, digests, reads at a cut. */
import type { Clock } from '../core/clock.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { Vector } from '../journal/position.js';
import type { Journal, JournalCut } from '../journal/types.js';
import { Replica } from '../replica/replica.js';
import type { PromoteResult } from '../replica/promote.js';
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
  readonly disks: readonly GroupDisk[];
}

export class ReplicaSet implements BaseTarget {
  private readonly touched = new Set<number>();

  private constructor(
    readonly replica: Replica,
    private readonly journal: Journal,
  ) {}

  /** Opens every disk; makes the empty replica of one that has none yet. */
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
    for (const disk of options.disks) if (!isThere(disk)) await replica.create(disk.index, disk.name, disk.sizeBytes);
    return new ReplicaSet(replica, options.journal);
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

  /** True when nothing but zeros was ever written to the disk's replica. */
  async isEmpty(disk: number): Promise<boolean> {
    const { sizeBytes } = this.replica.disk(disk);
    const run = await this.replica.disk(disk).run(0, sizeBytes);
    return run.zero && run.lengthBytes === sizeBytes;
  }

  /** The disk's bytes at the cut. */
  async readAt(cut: JournalCut, disk: number, target: Uint8Array, offsetBytes: number): Promise<void> {
    for (const piece of await cut.lookup(disk, offsetBytes, target.length)) {
      const start = piece.offsetBytes - offsetBytes;
      const into = target.subarray(start, start + piece.lengthBytes);
      if (piece.source === 'data') await cut.read(piece, 0, into);
      else if (piece.source === 'zero') into.fill(0);
      else await this.replica.disk(disk).read(into, piece.offsetBytes);
    }
  }

  close(): Promise<void> {
    return this.replica.close();
  }
}
