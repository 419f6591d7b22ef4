/**
 * What a source agent must remember of shutting VMs down and starting them again: `DIRECTORY/ID.json`, replaced whole.
 * Valid if and only if the schema fits; a damaged one is told and left out. Written before a VM is touched.
 */
import { z } from 'zod';
import type { EventSink } from '../core/events.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';
import { operationSchema } from '../service/operation-schemas.js';
import { nameSchema } from '../service/scalars.js';

const bytesMax = 1024 * 1024;
/** Ended ones above it are forgotten, oldest first. */
const countMax = 128;
const suffix = '.json';

const vmSchema = z.object({ hypervisor: nameSchema, name: z.string().max(256), uuid: z.string().max(64) });
export type StoppedVm = z.infer<typeof vmSchema>;

const recordSchema = z.object({
  version: z.literal(1),
  operation: operationSchema,
  /** Of a stop-vms: the peer that shall have everything. */
  target: nameSchema.nullable(),
  /** Of a stop-vms: those that ran, in the order of their shutdown. */
  waves: z.array(z.array(vmSchema)),
  /** Waves that were asked to shut down, or are about to be. */
  askedCount: z.number().int().nonnegative(),
});
export type StopRecord = z.infer<typeof recordSchema>;

export class StopRecords {
  private readonly known = new Map<string, StopRecord>();

  constructor(
    private readonly storage: Storage,
    private readonly directory: string,
    private readonly events: EventSink,
  ) {}

  async load(): Promise<void> {
    await this.storage.makeDirectory(this.directory);
    for (const file of await this.storage.list(this.directory)) {
      if (!file.endsWith(suffix)) continue;
      const text = await readWhole(this.storage, `${this.directory}/${file}`, bytesMax);
      const parsed = recordSchema.safeParse(parse(text ?? ''));
      if (parsed.success) this.known.set(parsed.data.operation.id, parsed.data);
      else this.events.emit('stop-record-damaged', { file, error: parsed.error.issues[0]?.message });
    }
  }

  get(id: string): StopRecord | undefined {
    return this.known.get(id);
  }

  list(): StopRecord[] {
    return [...this.known.values()];
  }

  /** Durable when it resolves. */
  async save(record: StopRecord): Promise<void> {
    await writeWhole(this.storage, this.directory, fileOf(record.operation.id), `${JSON.stringify(record)}\n`);
    this.known.set(record.operation.id, record);
    const ended = this.list().filter(({ operation }) => operation.state !== 'running');
    ended.sort((a, b) => a.operation.startedMs - b.operation.startedMs);
    for (const { operation } of ended.slice(0, Math.max(0, this.known.size - countMax))) {
      this.known.delete(operation.id);
      await this.storage.remove(`${this.directory}/${fileOf(operation.id)}`);
    }
  }
}

function fileOf(id: string): string {
  return `${id.replaceAll(':', '%')}${suffix}`;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
