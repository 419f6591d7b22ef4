/** Directories of removed groups: GROUPS/.retired/UNTIL-NAME, UNTIL in milliseconds since the Unix epoch. */
import type { Storage } from '../core/storage.js';

export class RetiredGroups {
  readonly #directory: string;

  constructor(
    private readonly storage: Storage,
    private readonly groups: string,
  ) {
    this.#directory = `${groups}/.retired`;
  }

  /** Moves the group's directory here; durable when it returns. */
  async add(name: string, untilMs: number): Promise<void> {
    const { storage, groups } = this;
    await storage.makeDirectory(this.#directory);
    await storage.rename(`${groups}/${name}`, `${this.#directory}/${untilMs}-${name}`);
    await storage.syncDirectory(groups);
    await storage.syncDirectory(this.#directory);
  }

  /** Deletes those whose time has passed; returns their names. */
  async purge(nowMs: number): Promise<string[]> {
    if (!(await this.storage.exists(this.#directory))) return [];
    const names: string[] = [];
    for (const entry of await this.storage.list(this.#directory)) {
      const match = /^(\d+)-(.+)$/.exec(entry);
      if (match?.[2] === undefined || Number(match[1]) > nowMs) continue;
      await this.storage.removeTree(`${this.#directory}/${entry}`);
      names.push(match[2]);
    }
    return names;
  }
}
