/** Payload of the `definition` frame (layout in messages.ts), both ways; the hash is checked on decoding. */
import { createHash } from 'node:crypto';
import { invariant } from '../core/invariant.js';
import { TidemarkError } from '../core/errors.js';
import { definitionHashBytes, definitionBytesMax } from './messages.js';

/** A VM definition as it travels and lies at the target: bytes under their own SHA-256. */
export interface DefinitionBlob {
  /** SHA-256 of `content`, 64 lower-case hexadecimal digits. */
  readonly hash: string;
  /** UTF-8 JSON of a `VmDefinition`. */
  readonly content: Uint8Array;
}

/** SHA-256 of the bytes, in hexadecimal. */
export function definitionHash(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

export function encodeDefinition({ hash, content }: DefinitionBlob): Uint8Array[] {
  invariant(content.length <= definitionBytesMax, 'definition within its bound');
  return [Buffer.from(hash, 'hex'), content];
}

/** Throws `protocol-error`. The content is a copy. */
export function decodeDefinition(payload: Uint8Array): DefinitionBlob {
  if (payload.length <= definitionHashBytes) throw new TidemarkError('protocol-error', 'A definition is cut short.');
  const content = payload.slice(definitionHashBytes);
  const hash = Buffer.from(payload.subarray(0, definitionHashBytes)).toString('hex');
  if (definitionHash(content) !== hash)
    throw new TidemarkError('protocol-error', 'A definition does not match its hash.');
  return { hash, content };
}
