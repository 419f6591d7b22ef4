/**
 * Directories of removed groups: GROUPS/.retired/UNTIL-NAME, UNTIL in milliseconds since the Unix epoch. `retired.json` in
 * it says what the group ran by, so that it can be shown and restored without opening it; it may be missing.
 */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';
import { groupPolicySchema, type GroupPolicy, type RetiredGroup } from '../service/group-spec.js';

const noteName = 'retired.json';
const noteBytesMax = 1024 * 1024;
const noteSchema = z.object({ policy: groupPolicySchema });

export class RetiredGroups {
  readonly #directory: string;

  constructor(
    private readonly storage: Storage,
    private readonly groups: string,
  ) {
    this.#directory = `${groups}/.retired`;
  }

  /** Keeps beside a group what it runs by, for when it is here. */
  note(name: string, policy: GroupPolicy): Promise<void> {
    return writeWhole(this.storage, `${this.groups}/${name}`, noteName, `${JSON.stringify({ policy })}\n`);
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
  async list(): Promise<RetiredGroup[]> {
    const found: RetiredGroup[] = [];
    for (const { entry, name, untilMs } of await this.#entries())
      found.push({ name, untilMs, policy: await this.#policy(`${this.#directory}/${entry}`) });
    return found.sort((a, b) => b.untilMs - a.untilMs);
  }

  /** Back to where it was, durable when it returns; throws `group-unknown`. Without `untilMs` the one that stays longest. */
  async restore(name: string, untilMs: number | undefined): Promise<void> {
    const { storage, groups } = this;
    const [found] = (await this.#entries())
      .filter((entry) => entry.name === name && (untilMs === undefined || entry.untilMs === untilMs))
      .sort((a, b) => b.untilMs - a.untilMs);
    if (found === undefined)
      throw new TidemarkError('group-unknown', `No retired group ${name} is kept here.`, { path: 'group' });
    await storage.rename(`${this.#directory}/${found.entry}`, `${groups}/${name}`);
    await storage.syncDirectory(this.#directory);
    await storage.syncDirectory(groups);
  }

  /** Deletes those whose time has passed; returns their names. */
  async purge(nowMs: number): Promise<string[]> {
    const over = (await this.#entries()).filter(({ untilMs }) => untilMs <= nowMs);
    for (const { entry } of over) await this.storage.removeTree(`${this.#directory}/${entry}`);
    return over.map(({ name }) => name);
  }

  async #entries(): Promise<{ entry: string; untilMs: number; name: string }[]> {
    if (!(await this.storage.exists(this.#directory))) return [];
    return (await this.storage.list(this.#directory)).flatMap((entry) => {
      const match = /^(\d+)-(.+)$/.exec(entry);
      return match?.[2] === undefined ? [] : [{ entry, untilMs: Number(match[1]), name: match[2] }];
    });
  }

  async #policy(directory: string): Promise<GroupPolicy | null> {
    const path = `${directory}/${noteName}`;
    if (!(await this.storage.exists(path))) return null;
    const text = await readWhole(this.storage, path, noteBytesMax);
    const note = noteSchema.safeParse(parse(text ?? ''));
    return note.success ? note.data.policy : null;
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
