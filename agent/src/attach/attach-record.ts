/**
 * What must outlive the agent about one VM's disks: which bitmap marks all that a target may lack, what each target was
 * seen to hold when that became true, and until when a person wants the VM let go.
 *
 * `DIRECTORY/VM.json`, replaced whole. Valid if and only if the schema fits; damaged or missing: no bitmap is believed.
 * A bitmap is written here before the older one that it replaces is removed in QEMU.
 */
import { z } from 'zod';
import { isTidemarkError } from '../core/errors.js';
import { Mutex } from '../core/mutex.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';

const bytesMax = 1024 * 1024;

const coveredSchema = z.object({
  epoch: z.number().int(),
  branch: z.string().max(64),
  incarnation: z.number().int().positive(),
  sequence: z.number().int().nonnegative(),
  /** Newest incarnation that was seen to begin with all of it. */
  through: z.number().int().positive(),
});
/** What a target held durably when the base bitmap marked all the rest. */
export type Covered = z.infer<typeof coveredSchema>;

const diskSchema = z.object({ base: z.string().max(128), covered: z.record(z.string(), coveredSchema) });
export type DiskRecord = z.infer<typeof diskSchema>;

const recordSchema = z.object({
  version: z.literal(1),
  vm: z.string().max(256),
  releasedUntilMs: z.number().nullable(),
  disks: z.record(z.string(), diskSchema),
});
type RecordText = z.infer<typeof recordSchema>;

export class AttachRecord {
  private readonly mutex = new Mutex();
  private content: RecordText;

  constructor(
    private readonly storage: Storage,
    private readonly directory: string,
    private readonly file: string,
    vm: string,
  ) {
    this.content = { version: 1, vm, releasedUntilMs: null, disks: {} };
  }

  async load(): Promise<void> {
    await this.storage.makeDirectory(this.directory);
    try {
      const text = await readWhole(this.storage, `${this.directory}/${this.file}`, bytesMax);
      const parsed = recordSchema.parse(JSON.parse(text ?? ''));
      if (parsed.vm === this.content.vm) this.content = parsed;
    } catch (error) {
      const damaged = error instanceof SyntaxError || error instanceof z.ZodError;
      if (!damaged && !isTidemarkError(error, 'storage-not-found')) throw error;
    }
  }

  /** Wall clock; undefined: not released. */
  get releasedUntilMs(): number | undefined {
    return this.content.releasedUntilMs ?? undefined;
  }

  disk(name: string): DiskRecord | undefined {
    return this.content.disks[name];
  }

  release(untilMs: number | undefined): Promise<void> {
    return this.save((content) => ({ ...content, releasedUntilMs: untilMs ?? null }));
  }

  setDisk(name: string, disk: DiskRecord): Promise<void> {
    return this.save((content) => ({ ...content, disks: { ...content.disks, [name]: disk } }));
  }

  /** Durable when it resolves; known here from then on. */
  private save(change: (content: RecordText) => RecordText): Promise<void> {
    return this.mutex.run(async () => {
      const next = change(this.content);
      await writeWhole(this.storage, this.directory, this.file, `${JSON.stringify(next)}\n`);
      this.content = next;
    });
  }
}
