/** The executable that appliances are given, by its content. */
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { TidemarkError } from '../agent-client.js';

export interface Bundle {
  readonly file: string;
  readonly sha256: string;
  open(): Readable;
}

const known = new Map<string, string>();

/** Beside the provider's directory, where `make agent` puts it. */
export function defaultBundle(): string {
  return join(dirname(process.argv[1] ?? '.'), '..', 'tidemark');
}

/** Throws `storage-not-found`. A file that stays as it is is read once. */
export function readBundle(file: string = defaultBundle()): Bundle {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (stat?.isFile() !== true)
    throw new TidemarkError('storage-not-found', `There is no executable ${file} to put on appliances.`, {
      path: 'bundle',
    });
  const identity = `${file} ${stat.size} ${stat.mtimeMs} ${stat.ino}`;
  const sha256 = known.get(identity) ?? createHash('sha256').update(readFileSync(file)).digest('hex');
  known.set(identity, sha256);
  return { file, sha256, open: () => createReadStream(file) };
}
