/**
 * The VM definitions of a group: `definitions/HASH`, one file for each, named by the SHA-256 of what it holds in clear.
 *
 * File: the content as it came (UTF-8 JSON of a `VmDefinition`); in an encrypted group 12 bytes nonce, AES-256-GCM of the
 * content with the hash as additional data, 16 bytes tag. Valid if and only if the content has the hash of its name.
 * Written to `HASH.new`, synced, renamed, directory synced: a crash leaves a `.new` file, which the next start removes.
 * A file that no recoverable checkpoint names goes after a day: marks that name it may still be on their way.
 */
import { createCipheriv, createDecipheriv, hkdfSync } from 'node:crypto';
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { Mutex } from '../core/mutex.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import { vmDefinitionSchema, type VmDefinition } from '../hypervisor/definition.js';
import { definitionHash, type DefinitionBlob } from '../stream/definitions.js';
import type { Checkpoint } from './manifest-records.js';

/** Definitions that a group keeps; more are refused. */
const countMax = 4096;
const unnamedKeepMs = 24 * 3_600_000;
const nonceBytes = 12;
const tagBytes = 16;

export interface DefinitionStoreOptions {
  readonly storage: Storage;
  readonly clock: Clock;
  readonly random: Random;
  /** The group's directory. */
  readonly directory: string;
  readonly key: Uint8Array | undefined;
}

export class DefinitionStore {
  private readonly known = new Set<string>();
  /** Since when nothing named it, monotonic milliseconds. */
  private readonly unnamedSinceMs = new Map<string, number>();
  private readonly writing = new Mutex();
  private readonly key: Uint8Array | undefined;
  private opened: Promise<void> | undefined;

  constructor(private readonly options: DefinitionStoreOptions) {
    const { key } = options;
    this.key =
      key === undefined
        ? undefined
        : new Uint8Array(hkdfSync('sha256', key, new Uint8Array(), 'tidemark definition 1', 32));
  }

  /** True when it is durable here. */
  async has(hash: string): Promise<boolean> {
    await this.open();
    return this.known.has(hash);
  }

  /** Durable when it returns. `protocol-error` when it is no definition. */
  store({ hash, content }: DefinitionBlob): Promise<void> {
    return this.writing.run(async () => {
      await this.open();
      if (this.known.has(hash)) return;
      parse(content);
      if (this.known.size >= countMax)
        throw new TidemarkError('storage-full', `The group holds ${countMax} VM definitions already.`);
      const { storage } = this.options;
      const path = this.path(hash);
      await storage.remove(`${path}.new`);
      const file = await storage.open(`${path}.new`, 'create');
      try {
        await file.write(this.seal(hash, content), 0);
        await file.datasync();
      } finally {
        await file.close();
      }
      await storage.rename(`${path}.new`, path);
      await storage.syncDirectory(this.directory);
      this.known.add(hash);
    });
  }

  /** Throws `definition-unknown`, or `journal-corrupt` when it is damaged. */
  async read(hash: string): Promise<VmDefinition> {
    await this.open();
    if (!this.known.has(hash))
      throw new TidemarkError('definition-unknown', `The VM definition ${hash} is not here.`, {
        path: this.path(hash),
      });
    const file = await this.options.storage.open(this.path(hash), 'read');
    try {
      const stored = new Uint8Array(await file.sizeBytes());
      await file.read(stored, 0);
      return parse(this.unseal(hash, stored));
    } finally {
      await file.close();
    }
  }

  /** Removes what none of the checkpoints has named for a day. */
  async sweep(checkpoints: readonly Checkpoint[]): Promise<void> {
    await this.open();
    if (this.known.size === 0) return;
    const named = new Set(checkpoints.flatMap((checkpoint) => Object.values(definitionsOf(checkpoint))));
    const nowMs = this.options.clock.monotonicMs();
    for (const hash of this.known) {
      const sinceMs = this.unnamedSinceMs.get(hash) ?? nowMs;
      if (named.has(hash)) this.unnamedSinceMs.delete(hash);
      else if (nowMs - sinceMs < unnamedKeepMs) this.unnamedSinceMs.set(hash, sinceMs);
      else {
        await this.options.storage.remove(this.path(hash));
        this.known.delete(hash);
        this.unnamedSinceMs.delete(hash);
      }
    }
  }

  private open(): Promise<void> {
    this.opened ??= this.load();
    // Tried again after a failure.
    this.opened.catch(() => (this.opened = undefined));
    return this.opened;
  }

  private async load(): Promise<void> {
    const { storage } = this.options;
    await storage.makeDirectory(this.directory);
    for (const name of await storage.list(this.directory)) {
      if (/^[0-9a-f]{64}$/.test(name)) this.known.add(name);
      else if (name.endsWith('.new')) await storage.remove(`${this.directory}/${name}`);
    }
  }

  private get directory(): string {
    return `${this.options.directory}/definitions`;
  }

  private path(hash: string): string {
    return `${this.directory}/${hash}`;
  }

  private seal(hash: string, content: Uint8Array): Uint8Array {
    if (this.key === undefined) return content;
    const nonce = this.options.random.bytes(nonceBytes);
    const cipher = createCipheriv('aes-256-gcm', this.key, nonce);
    cipher.setAAD(Buffer.from(hash, 'hex'));
    return Buffer.concat([nonce, cipher.update(content), cipher.final(), cipher.getAuthTag()]);
  }

  private unseal(hash: string, stored: Uint8Array): Uint8Array {
    const damaged = (cause?: unknown): TidemarkError =>
      new TidemarkError('journal-corrupt', `The VM definition ${hash} is damaged.`, { path: this.path(hash), cause });
    let content = stored;
    if (this.key !== undefined) {
      if (stored.length < nonceBytes + tagBytes) throw damaged();
      const decipher = createDecipheriv('aes-256-gcm', this.key, stored.subarray(0, nonceBytes));
      decipher.setAAD(Buffer.from(hash, 'hex'));
      decipher.setAuthTag(stored.subarray(stored.length - tagBytes));
      try {
        content = Buffer.concat([decipher.update(stored.subarray(nonceBytes, -tagBytes)), decipher.final()]);
      } catch (cause) {
        throw damaged(cause);
      }
    }
    if (definitionHash(content) !== hash) throw damaged();
    return content;
  }
}

function parse(content: Uint8Array): VmDefinition {
  try {
    return vmDefinitionSchema.parse(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(content)));
  } catch (cause) {
    throw new TidemarkError('protocol-error', 'What was sent is no VM definition.', { cause });
  }
}

/** `{vm: hash}` that the checkpoint names; empty when it names none. */
export function definitionsOf({ attributes }: Pick<Checkpoint, 'attributes'>): Readonly<Record<string, string>> {
  const named = attributes?.['definitions'];
  if (typeof named !== 'object' || named === null) return {};
  return Object.fromEntries(
    Object.entries(named).filter((entry): entry is [string, string] => /^[0-9a-f]{64}$/.test(String(entry[1]))),
  );
}
