/**
 * Which key file (key-source.ts) a target group has. For groups that came by the API (declare, adopt) the agent remembers
 * the key file's name, never the key, in DATADIRECTORY/key-files.json, so that a restart opens them again; for groups of
 * the configuration the configuration says it.
 */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import { Mutex } from '../core/mutex.js';
import type { Storage } from '../core/storage.js';

const schema = z.record(z.string(), z.string());

export class KeyFiles {
  readonly #path: string;
  readonly #lock = new Mutex();
  #files = new Map<string, string>();

  constructor(
    private readonly storage: Storage,
    private readonly dataDirectory: string,
  ) {
    this.#path = `${dataDirectory}/key-files.json`;
  }

  /** A missing file is an empty one; a damaged one is `encryption-key`. */
  async load(): Promise<void> {
    if (!(await this.storage.exists(this.#path))) return;
    try {
      this.#files = new Map(Object.entries(schema.parse(JSON.parse(await readFile(this.#path, 'utf8')))));
    } catch (cause) {
      throw new TidemarkError('encryption-key', `${this.#path} is damaged: ${(cause as Error).message}`, {
        path: this.#path,
        cause,
      });
    }
  }

  get(group: string): string | undefined {
    return this.#files.get(group);
  }

  /** Group and file, as far as they are known. */
  entries(): [string, string][] {
    return [...this.#files];
  }

  /** Of the configuration: goes before what was remembered, and need not be remembered. */
  set(group: string, file: string): void {
    this.#files.set(group, file);
  }

  /** Durable when it returns. */
  remember(group: string, file: string | undefined): Promise<void> {
    return this.#lock.run(async () => {
      if (this.#files.get(group) === file) return;
      if (file === undefined) this.#files.delete(group);
      else this.#files.set(group, file);
      const next = `${this.#path}.next`;
      await this.storage.remove(next);
      const handle = await this.storage.open(next, 'create');
      try {
        await handle.write(Buffer.from(JSON.stringify(Object.fromEntries(this.#files), null, 2)), 0);
        await handle.datasync();
      } finally {
        await handle.close();
      }
      await this.storage.rename(next, this.#path);
      await this.storage.syncDirectory(this.dataDirectory);
    });
  }
}
