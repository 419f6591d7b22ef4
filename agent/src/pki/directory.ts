/** An authority in a directory: ca.crt, ca.key, and NAME.crt, NAME.key of each certificate. Keys have mode 0600. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { TidemarkError } from '../core/errors.js';
import { createAuthority, issueCertificate, type IssueOptions, type KeyPair } from './authority.js';

/** Paths of the files written. */
export interface KeyFiles {
  readonly certificate: string;
  readonly key: string;
}

/** Makes the authority; an existing one is never overwritten (`storage-exists`). */
export async function initAuthority(directory: string): Promise<KeyFiles> {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  return write(directory, 'ca', await createAuthority());
}

/** Issues a certificate beside the authority; `storage-exists` when the name has one, `storage-not-found` without one. */
export async function issueInto(directory: string, name: string, options: IssueOptions = {}): Promise<KeyFiles> {
  if (name === 'ca' || name.includes('/') || name.startsWith('.'))
    throw new TidemarkError('request-invalid', `${name} cannot be the name of a certificate`, { path: 'name' });
  const authority: KeyPair = { certificate: read(join(directory, 'ca.crt')), key: read(join(directory, 'ca.key')) };
  return write(directory, name, await issueCertificate(authority, name, options));
}

function write(directory: string, name: string, pair: KeyPair): KeyFiles {
  const files = { certificate: join(directory, `${name}.crt`), key: join(directory, `${name}.key`) };
  for (const path of Object.values(files))
    if (existsSync(path)) throw new TidemarkError('storage-exists', `${path} exists`, { path });
  writeFileSync(files.key, pair.key, { mode: 0o600, flag: 'wx' });
  writeFileSync(files.certificate, pair.certificate, { mode: 0o644, flag: 'wx' });
  return files;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new TidemarkError('storage-not-found', `cannot read ${path}; make an authority with \`tidemark pki init\``, {
      path,
      cause,
    });
  }
}
