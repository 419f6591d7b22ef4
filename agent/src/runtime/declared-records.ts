/**
 * What was declared by the API and the configuration file does not say: `DIRECTORY/NAME.json`, one for each, replaced whole.
 * Valid if and only if the schema fits and the name is the file's; a damaged one stops the agent's start, because an agent
 * that forgets what it captures would protect nothing and say so to nobody.
 */
import type { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';

const bytesMax = 1024 * 1024;
const suffix = '.json';

export class DeclaredRecords<Entry extends { readonly name: string }> {
  private readonly known = new Map<string, Entry>();

  constructor(
    private readonly storage: Storage,
    private readonly directory: string,
    private readonly schema: z.ZodType<Entry>,
  ) {}

  /** Throws `declaration-damaged` for a record that cannot be understood. */
  async load(): Promise<void> {
    await this.storage.makeDirectory(this.directory);
    for (const file of await this.storage.list(this.directory)) {
      if (!file.endsWith(suffix)) continue;
      const path = `${this.directory}/${file}`;
      const parsed = this.schema.safeParse(parse((await readWhole(this.storage, path, bytesMax)) ?? ''));
      const problem = parsed.success ? undefined : (parsed.error.issues[0]?.message ?? '');
      if (!parsed.success || `${parsed.data.name}${suffix}` !== file)
        throw new TidemarkError('declaration-damaged', `${path}: ${problem ?? 'is of another name'}`, { path });
      this.known.set(parsed.data.name, parsed.data);
    }
  }

  get(name: string): Entry | undefined {
    return this.known.get(name);
  }

  list(): Entry[] {
    return [...this.known.values()];
  }

  /** Durable when it resolves. */
  async save(entry: Entry): Promise<void> {
    await writeWhole(this.storage, this.directory, `${entry.name}${suffix}`, `${JSON.stringify(entry)}\n`);
    this.known.set(entry.name, entry);
  }

  /** Durable when it resolves. One that is not there is no error. */
  async remove(name: string): Promise<void> {
    await this.storage.remove(`${this.directory}/${name}${suffix}`);
    await this.storage.syncDirectory(this.directory);
    this.known.delete(name);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
