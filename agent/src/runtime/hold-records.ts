/**
 * Which VMs of a group may be held right now: `DIRECTORY/GROUP.json`, durable before the first dead man is armed, removed
 * after everything was proven to be released. Valid if and only if the schema fits; a damaged one counts as: all VMs of the
 * group. What it names after a start of the agent is released and ended first of all.
 */
import { z } from 'zod';
import { isTidemarkError } from '../core/errors.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';

const bytesMax = 1024 * 1024;

const recordSchema = z.object({ version: z.literal(1), id: z.string().max(64), vms: z.array(z.string().max(256)) });

export class HoldRecords {
  constructor(
    private readonly storage: Storage,
    private readonly directory: string,
  ) {}

  /** VMs that an earlier attempt may have left held; `all`: nobody knows which. Undefined: none. */
  async left(group: string): Promise<readonly string[] | 'all' | undefined> {
    try {
      const text = await readWhole(this.storage, this.#path(group), bytesMax);
      const parsed = recordSchema.safeParse(parse(text ?? ''));
      return parsed.success ? parsed.data.vms : 'all';
    } catch (error) {
      if (isTidemarkError(error, 'storage-not-found')) return undefined;
      throw error;
    }
  }

  /** Durable when it resolves. */
  async begin(group: string, id: string, vms: readonly string[]): Promise<void> {
    await this.storage.makeDirectory(this.directory);
    await writeWhole(this.storage, this.directory, `${group}.json`, `${JSON.stringify({ version: 1, id, vms })}\n`);
  }

  async end(group: string): Promise<void> {
    await this.storage.remove(this.#path(group));
  }

  #path(group: string): string {
    return `${this.directory}/${group}.json`;
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
