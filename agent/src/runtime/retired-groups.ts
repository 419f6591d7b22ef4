/**
 * Directories of removed groups, and of histories that a reversal closed: GROUPS/.retired/UNTIL-NAME, UNTIL in milliseconds
 * since the Unix epoch. `retired.json` in it says what the group ran by and why it is here, so that it can be shown and
 * restored without opening it; it may be missing.
 */
import { z } from 'zod';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';
import { groupPolicySchema, type GroupPolicy, type RetiredGroup } from '../service/group-spec.js';

const noteName = 'retired.json';
const noteBytesMax = 1024 * 1024;
const noteSchema = z.object({
  policy: groupPolicySchema,
  /** Notes of earlier versions do not say it. */
  why: z.enum(['removed', 'reversed']).default('removed'),
});
type Note = z.infer<typeof noteSchema>;

/** Of a group that only has disks: what its commit copied them to, which may be in use. */
const committedName = 'committed';

/** One that has its time. */
export type KeptGroup = RetiredGroup & { readonly untilMs: number };

export class RetiredGroups {
  readonly #directory: string;

  constructor(
    private readonly storage: Storage,
    private readonly groups: string,
  ) {
    this.#directory = `${groups}/.retired`;
  }

  /** Keeps beside a group what it runs by, and why it goes, for when it is here. */
  note(name: string, policy: GroupPolicy, why: Note['why']): Promise<void> {
    return writeWhole(this.storage, `${this.groups}/${name}`, noteName, `${JSON.stringify({ policy, why })}\n`);
  }

  /** Moves the group's directory here; durable when it returns. */
  async add(name: string, untilMs: number): Promise<void> {
    const { storage, groups } = this;
    await storage.makeDirectory(this.#directory);
    await storage.rename(`${groups}/${name}`, `${this.#directory}/${untilMs}-${name}`);
    await storage.syncDirectory(groups);
    await storage.syncDirectory(this.#directory);
  }

  /** Those that stay longest come first. */
  async list(): Promise<KeptGroup[]> {
    const found: KeptGroup[] = [];
    for (const { entry, name, untilMs } of await this.#entries()) {
      const note = await this.#note(`${this.#directory}/${entry}`);
      found.push({ name, untilMs, why: note?.why ?? 'removed', policy: note?.policy ?? null });
    }
    return found.sort((a, b) => b.untilMs - a.untilMs);
  }

  /** Back to where it was, durable when it returns. */
  async restore({ name, untilMs }: KeptGroup): Promise<void> {
    const { storage, groups } = this;
    await storage.rename(`${this.#directory}/${untilMs}-${name}`, `${groups}/${name}`);
    await storage.syncDirectory(this.#directory);
    await storage.syncDirectory(groups);
  }

  /** Deletes the history of those whose time has passed, never disks that a commit made; returns their names. */
  async purge(nowMs: number): Promise<string[]> {
    const over = (await this.#entries()).filter(({ untilMs }) => untilMs <= nowMs);
    for (const { entry } of over) {
      const directory = `${this.#directory}/${entry}`;
      if (!(await this.#hasCommitted(directory))) await this.storage.removeTree(directory);
      else
        for (const each of await this.storage.list(directory))
          if (each !== committedName) await this.storage.removeTree(`${directory}/${each}`);
    }
    return over.map(({ name }) => name);
  }

  async #hasCommitted(directory: string): Promise<boolean> {
    const committed = `${directory}/${committedName}`;
    return (await this.storage.exists(committed)) && (await this.storage.list(committed)).length > 0;
  }

  async #entries(): Promise<{ entry: string; untilMs: number; name: string }[]> {
    if (!(await this.storage.exists(this.#directory))) return [];
    const entries: { entry: string; untilMs: number; name: string }[] = [];
    for (const entry of await this.storage.list(this.#directory)) {
      const match = /^(\d+)-(.+)$/.exec(entry);
      const inside = await this.storage.list(`${this.#directory}/${entry}`);
      // Its history is gone already.
      const isOver = inside.length === 1 && inside[0] === committedName;
      if (match?.[2] !== undefined && !isOver) entries.push({ entry, untilMs: Number(match[1]), name: match[2] });
    }
    return entries;
  }

  async #note(directory: string): Promise<Note | undefined> {
    const path = `${directory}/${noteName}`;
    if (!(await this.storage.exists(path))) return undefined;
    return noteSchema.safeParse(parse((await readWhole(this.storage, path, noteBytesMax)) ?? '')).data;
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
