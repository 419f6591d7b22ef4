/**
 * Disks that this agent had made and that a reversal left behind: deleted when their time has passed.
 *
 * `DIRECTORY/old-disks.json`, replaced whole. Valid if and only if the schema fits; damaged: nothing is deleted any more,
 * which is told. A disk that a VM of the hypervisor still has, or that a replica is being made from, stays.
 */
import { dirname, normalize } from 'node:path';
import { z } from 'zod';
import { isTidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';
import type { RecoveryDriver } from '../recovery/driver.js';

const fileName = 'old-disks.json';
const bytesMax = 16 * 1024 * 1024;

const oldDiskSchema = z.object({
  group: z.string(),
  path: z.string(),
  /** Wall clock. */
  untilMs: z.number(),
  /** VMs that had it. */
  vms: z.array(z.object({ hypervisor: z.string(), uuid: z.string() })),
});
export type OldDisk = z.infer<typeof oldDiskSchema>;
const fileSchema = z.object({ version: z.literal(1), disks: z.array(oldDiskSchema) });

export interface OldDisksOptions {
  readonly storage: Storage;
  readonly events: EventSink;
  /** Holds the files, a directory for each group; nothing outside of it is ever deleted. */
  readonly directory: string;
  readonly driver: (hypervisor: string) => RecoveryDriver;
  /** The replica of the group may still be read from it. */
  readonly isSeed: (disk: OldDisk) => boolean;
}

export class OldDisks {
  private readonly mutex = new Mutex();
  private lastProblem: string | undefined;

  constructor(private readonly options: OldDisksOptions) {}

  /** True for a file that this agent had made. */
  isOurs(group: string, path: string): boolean {
    return path === normalize(path) && path.startsWith(`${this.options.directory}/${group}/`);
  }

  /** Durable when it resolves; a path that is known has this time from now on. */
  add(disks: readonly OldDisk[]): Promise<void> {
    const ours = disks.filter(({ group, path }) => this.isOurs(group, path));
    return this.change((known) => [...known.filter(({ path }) => !ours.some((disk) => disk.path === path)), ...ours]);
  }

  /** The file is in use again. */
  keep(path: string): Promise<void> {
    return this.change((known) => known.filter((disk) => disk.path !== path));
  }

  /** Deletes those whose time has passed. What fails is told once, and tried again in the next call. */
  async purge(nowMs: number): Promise<void> {
    try {
      const over = (await this.load()).filter((disk) => disk.untilMs <= nowMs && !this.options.isSeed(disk));
      for (const disk of over) if (!(await this.isInUse(disk))) await this.delete(disk);
      this.lastProblem = undefined;
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      const { code, message } = error;
      if (message !== this.lastProblem) this.options.events.emit('old-disks-kept', { code, error: message });
      this.lastProblem = message;
    }
  }

  private async delete({ group, path }: OldDisk): Promise<void> {
    const { storage, events } = this.options;
    await storage.remove(path);
    await this.removeEmptied(group, dirname(path));
    await this.keep(path);
    events.emit('old-disk-deleted', { group, path });
  }

  /** With the last disk of a commit go the firmware variables and logs of its VMs, which are no more. */
  private async removeEmptied(group: string, directory: string): Promise<void> {
    const { storage } = this.options;
    if (!(await storage.exists(directory)) || (await storage.list(directory)).length > 0) return;
    const operation = dirname(directory);
    await storage.removeTree(directory.endsWith('/disks') && this.isOurs(group, operation) ? operation : directory);
  }

  private async isInUse({ path, vms }: OldDisk): Promise<boolean> {
    for (const { hypervisor, uuid } of vms) {
      const driver = this.options.driver(hypervisor);
      if ((await driver.state(uuid)) === 'absent') continue;
      for (const which of ['live', 'saved'] as const)
        if ((await driver.definition(uuid, which)).includes(path)) return true;
    }
    return false;
  }

  private async load(): Promise<OldDisk[]> {
    const { storage, directory } = this.options;
    try {
      const text = await readWhole(storage, `${directory}/${fileName}`, bytesMax);
      return fileSchema.parse(JSON.parse(text ?? '')).disks;
    } catch (error) {
      if (isTidemarkError(error, 'storage-not-found')) return [];
      if (!(error instanceof SyntaxError) && !(error instanceof z.ZodError)) throw error;
      if (this.lastProblem !== 'damaged')
        this.options.events.emit('old-disks-kept', { error: `${fileName} is damaged` });
      this.lastProblem = 'damaged';
      return [];
    }
  }

  private change(edit: (known: readonly OldDisk[]) => OldDisk[]): Promise<void> {
    return this.mutex.run(async () => {
      const { storage, directory } = this.options;
      const known = await this.load();
      const disks = edit(known);
      if (disks.length === 0 && known.length === 0) return;
      await storage.makeDirectory(directory);
      await writeWhole(storage, directory, fileName, `${JSON.stringify({ version: 1, disks })}\n`);
    });
  }
}
