/** Digests of 64 KiB chunks, the unit in which the replica is checked, scrubbed and compared with its source. */
import { hash } from 'node:crypto';
import { digestBytes, digestChunkBytes } from '../stream/messages.js';

export const chunkBytes = digestChunkBytes;

/** Stands for a chunk that reads as zeros; needs no I/O. */
export const zeroDigest: Uint8Array = new Uint8Array(digestBytes);
/** Stands for a chunk whose bytes are known to be wrong: it equals no content, so it is never served. */
export const damagedDigest: Uint8Array = new Uint8Array(digestBytes).fill(0xff);

const zeros = new Uint8Array(chunkBytes);

/** True when every byte is zero. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    const end = Math.min(bytes.length, at + chunkBytes);
    if (Buffer.compare(bytes.subarray(at, end), zeros.subarray(0, end - at)) !== 0) return false;
  }
  return true;
}

/** SHA-256 cut to 16 bytes, all zeros for a chunk of zeros. Hashes the bytes given, without padding. */
export function chunkDigest(bytes: Uint8Array): Uint8Array {
  return isZero(bytes) ? zeroDigest : hash('sha256', bytes, 'buffer').subarray(0, digestBytes);
}

/** True when both digests are the same 16 bytes. */
export function digestsEqual(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
