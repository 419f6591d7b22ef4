/**
 * Which way a group goes at this agent when a reversal made it another than the configuration says:
 * `DIRECTORY/GROUP.json`, replaced whole. Valid if and only if the schema fits; a damaged one stops the agent's start,
 * because without it a stale VM would be captured again.
 */
import { z } from 'zod';
import { sourceGroupSchema } from '../config/schema-groups.js';
import { TidemarkError } from '../core/errors.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';
import { targetGroupSpecSchema } from '../service/group-spec.js';
import { nameSchema } from '../service/scalars.js';

const bytesMax = 1024 * 1024;
const suffix = '.json';

/** The group is protected from here, whatever the configuration says of it. */
const sourceSchema = z.object({
  version: z.literal(1),
  role: z.literal('source'),
  group: nameSchema,
  operation: z.string(),
  config: sourceGroupSchema,
});

/** The group is protected to here: its source group of the configuration does nothing. */
const targetSchema = z.object({
  version: z.literal(1),
  role: z.literal('target'),
  group: nameSchema,
  operation: z.string(),
  /** With the old disks as seeds. */
  spec: targetGroupSpecSchema,
  parent: z.object({ epoch: z.number().int().positive(), branch: z.string().regex(/^[0-9a-f]{16}$/) }),
  /** VMs that were here; their definitions are in `DIRECTORY/GROUP-VM.definition`. */
  vms: z.array(z.object({ hypervisor: nameSchema, name: z.string(), uuid: z.string() })),
  /** Disks that an earlier recovery made here are set aside, until this moment (wall clock). */
  keepUntilMs: z.number(),
  /** The old VMs are gone, and the target group is declared. */
  settled: z.boolean(),
});

const recordSchema = z.discriminatedUnion('role', [sourceSchema, targetSchema]);
export type DirectionRecord = z.infer<typeof recordSchema>;
export type TargetDirection = z.infer<typeof targetSchema>;
export type SourceDirection = z.infer<typeof sourceSchema>;

export class DirectionRecords {
  private readonly known = new Map<string, DirectionRecord>();

  constructor(
    private readonly storage: Storage,
    private readonly directory: string,
  ) {}

  /** Throws `storage-corrupt` for a record that cannot be understood. */
  async load(): Promise<void> {
    await this.storage.makeDirectory(this.directory);
    for (const file of await this.storage.list(this.directory)) {
      if (!file.endsWith(suffix)) continue;
      const path = `${this.directory}/${file}`;
      const parsed = recordSchema.safeParse(parse((await readWhole(this.storage, path, bytesMax)) ?? ''));
      if (!parsed.success)
        throw new TidemarkError('direction-damaged', `${path}: ${parsed.error.issues[0]?.message ?? ''}`, { path });
      this.known.set(parsed.data.group, parsed.data);
    }
  }

  get(group: string): DirectionRecord | undefined {
    return this.known.get(group);
  }

  list(): DirectionRecord[] {
    return [...this.known.values()];
  }

  /** Durable when it resolves; from then on the group goes this way, also after a restart. */
  async save(record: DirectionRecord): Promise<void> {
    await writeWhole(this.storage, this.directory, `${record.group}${suffix}`, `${JSON.stringify(record)}\n`);
    this.known.set(record.group, record);
  }

  /** The group goes as it is declared again. Durable when it resolves. */
  async remove(group: string): Promise<void> {
    await this.storage.remove(`${this.directory}/${group}${suffix}`);
    await this.storage.syncDirectory(this.directory);
    this.known.delete(group);
  }

  /** A definition of a VM that leaves this site, for a person. Durable. */
  async keepDefinition(group: string, vm: string, text: string): Promise<void> {
    const name = `${group}-${vm.replaceAll(/[^A-Za-z0-9._-]+/g, '-')}.definition`;
    await writeWhole(this.storage, this.directory, name, text);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
