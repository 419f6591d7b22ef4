/** A view: every disk of a checkpoint, read-write, private. What a drill, a browse or a failed-over VM runs on. */
import { TidemarkError } from '../core/errors.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { JournalCut } from '../journal/types.js';
import type { Replica } from '../replica/replica.js';
import { CutDisk } from './cut-disk.js';
import { Scratch } from './scratch.js';
import { ViewDisk } from './view-disk.js';

export interface ViewOptions {
  readonly storage: Storage;
  /** Of this view alone; made when missing. */
  readonly directory: string;
  readonly replica: Replica;
  /** Owned by the view from now on: released with it. The caller never promotes past it. */
  readonly cut: JournalCut;
  /** Disks that the checkpoint holds, with their sizes there; a disk missing from the checkpoint is left out. */
  readonly disks: readonly { readonly index: number; readonly sizeBytes: number }[];
  /** Bound of the scratch files together, bytes; reaching it pauses the VM (ENOSPC). */
  readonly scratchLimitBytes: number;
  readonly random: Random;
  readonly key?: Uint8Array | undefined;
}

export class View {
  readonly disks: ReadonlyMap<number, ViewDisk>;
  /** The same disks without the scratch: the checkpoint itself. */
  readonly checkpointDisks: ReadonlyMap<number, CutDisk>;
  readonly #options: ViewOptions;
  readonly #scratch: Scratch;
  #released = false;

  private constructor(options: ViewOptions, scratch: Scratch) {
    this.#options = options;
    this.#scratch = scratch;
    const { cut, replica, disks } = options;
    this.checkpointDisks = new Map(
      disks.map(({ index, sizeBytes }) => [index, new CutDisk(cut, replica.disk(index), sizeBytes)]),
    );
    this.disks = new Map([...this.checkpointDisks].map(([index, below]) => [index, new ViewDisk(below, scratch)]));
  }

  /**
   * Opens the view's scratch when it has one (after a restart: the same bytes, all flushed ones at least), else makes
   * an empty one. Durable on return. Throws `scratch-corrupt`, `encryption-key`, `format-version`, storage errors;
   * the cut is released then.
   */
  static async open(options: ViewOptions): Promise<View> {
    try {
      const { storage, directory, random, key, scratchLimitBytes: limitBytes } = options;
      const scratchOptions = { storage, directory, random, key, limitBytes };
      const exists = await Scratch.exists(storage, directory);
      return new View(options, await (exists ? Scratch.open(scratchOptions) : Scratch.create(scratchOptions)));
    } catch (error) {
      options.cut.release();
      throw error;
    }
  }

  /** Throws `disk-unknown`: not of this group, or missing from the checkpoint. */
  disk(index: number): ViewDisk {
    const disk = this.disks.get(index);
    if (disk === undefined) throw new TidemarkError('disk-unknown', `The view has no disk ${index}.`);
    return disk;
  }

  get clientCount(): number {
    let count = 0;
    for (const disk of this.disks.values()) count += disk.clientCount;
    return count;
  }

  get scratchUsedBytes(): number {
    return this.#scratch.usedBytes;
  }

  get scratchLimitBytes(): number {
    return this.#scratch.limitBytes;
  }

  /** The scratch could not be made durable: the view answers EIO until it is opened again. */
  get failed(): boolean {
    return this.#scratch.failed;
  }

  flush(): Promise<void> {
    return this.#scratch.flush();
  }

  /** Closes the files and releases the cut, without a flush: what was not flushed may be lost. Idempotent. */
  async release(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    await this.#scratch.close();
    this.#options.cut.release();
  }

  /** Flushes and releases; the scratch stays as a named point, opened again by `View.open` on its directory. */
  async keep(): Promise<void> {
    await this.flush();
    await this.release();
  }

  /** Releases and deletes the scratch, durably. Throws `view-busy` while clients are connected. */
  async discard(): Promise<void> {
    if (this.clientCount > 0)
      throw new TidemarkError('view-busy', `The view has ${this.clientCount} connected clients.`);
    await this.release();
    const { storage, directory } = this.#options;
    // The data first: bytes without a map would be taken for a lost map.
    await storage.remove(`${directory}/scratch.data`);
    await storage.remove(`${directory}/scratch.map`);
    await storage.syncDirectory(directory);
  }
}
