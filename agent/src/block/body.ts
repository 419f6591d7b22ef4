/** The raw body of a block as it came over the wire (encryption at rest is the journal's own). */
import { zstdDecompressSync } from 'node:zlib';
import { TidemarkError } from '../core/errors.js';
import type { Block } from './block.js';

/** Decompresses when needed; refuses a body whose size is not what the header says. */
export function blockBody(block: Block): Uint8Array {
  const { header, body } = block;
  if (header.encrypted) throw new TidemarkError('protocol-error', 'A block on the wire is never encrypted by itself.');
  if (!header.compressed) return body;
  let raw: Uint8Array;
  try {
    raw = zstdDecompressSync(body, { maxOutputLength: Math.max(1, header.bodyRawBytes) });
  } catch (error) {
    throw new TidemarkError('protocol-error', 'The compressed body of a block cannot be read.', { cause: error });
  }
  if (raw.length !== header.bodyRawBytes) throw new TidemarkError('protocol-error', 'A block body has another size.');
  return raw;
}
