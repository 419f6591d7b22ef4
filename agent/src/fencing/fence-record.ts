/**
 * What a source agent knows of its stale groups, kept over restarts: `DIRECTORY/GROUP.json`, and for the hook of the
 * hypervisor `DIRECTORY/GROUP.vms`, a line for each VM that may not be started: its name or UUID, as configured.
 * Written to `.new`, synced, renamed, directory synced; the list of VMs first and removed last, so that a crash leaves a
 * start refused that might be allowed, never the other way.
 */
import { z } from 'zod';
import type { Storage } from '../core/storage.js';

/** Where an agent keeps these records. */
export function fencedDirectory(dataDirectory: string): string {
  return `${dataDirectory}/fenced`;
}

export const fencingPolicySchema = z.enum(['isolate', 'stop', 'leave']);
export type FencingPolicy = z.infer<typeof fencingPolicySchema>;

export const fenceRecordSchema = z.strictObject({
  group: z.string(),
  /** Wall time. */
  sinceMs: z.number(),
  /** What the target said. */
  reason: z.string(),
  policy: fencingPolicySchema,
  /** `vm`: name or UUID. */
  vms: z.array(z.strictObject({ vm: z.string(), hypervisor: z.string() })),
  /** What the source's disks hold and no target has: kept on those disks, under this name. */
  orphan: z.strictObject({
    name: z.string(),
    /** From the newest checkpoint that the target holds to the fence. */
    seconds: z.number().nullable(),
    /** Written and not durable at the target. */
    bytes: z.number(),
    checkpoint: z.string().nullable(),
  }),
});
export type FenceRecord = z.infer<typeof fenceRecordSchema>;

export class FenceRecords {
  constructor(
    private readonly storage: Storage,
    private readonly directory: string,
  ) {}

  /** All that were saved; a file that cannot be read says that its group is not stale. */
  async load(): Promise<FenceRecord[]> {
    await this.storage.makeDirectory(this.directory);
    const records: FenceRecord[] = [];
    for (const name of await this.storage.list(this.directory)) {
      if (!name.endsWith('.json')) continue;
      const parsed = fenceRecordSchema.safeParse(parse(await this.read(`${this.directory}/${name}`)));
      if (parsed.success) records.push(parsed.data);
    }
    return records;
  }

  /** Durable when it returns. */
  async save(record: FenceRecord): Promise<void> {
    const refused = record.policy === 'leave' ? [] : record.vms.map(({ vm }) => vm);
    await this.write(`${record.group}.vms`, refused.map((line) => `${line}\n`).join(''));
    await this.write(`${record.group}.json`, JSON.stringify(record));
  }

  async remove(group: string): Promise<void> {
    await this.storage.remove(`${this.directory}/${group}.json`);
    await this.storage.syncDirectory(this.directory);
    await this.storage.remove(`${this.directory}/${group}.vms`);
    await this.storage.syncDirectory(this.directory);
  }

  private async write(name: string, text: string): Promise<void> {
    const path = `${this.directory}/${name}`;
    await this.storage.remove(`${path}.new`);
    const file = await this.storage.open(`${path}.new`, 'create');
    try {
      await file.write(new TextEncoder().encode(text), 0);
      await file.datasync();
    } finally {
      await file.close();
    }
    await this.storage.rename(`${path}.new`, path);
    await this.storage.syncDirectory(this.directory);
  }

  private async read(path: string): Promise<string> {
    const file = await this.storage.open(path, 'read');
    try {
      const bytes = new Uint8Array(await file.sizeBytes());
      await file.read(bytes, 0);
      return new TextDecoder().decode(bytes);
    } finally {
      await file.close();
    }
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
