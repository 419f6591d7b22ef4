/** Encryption at rest of journal bodies; the scheme is documented in SEGMENT.md. */
import { createCipheriv, createDecipheriv, createHmac, hkdfSync } from 'node:crypto';
import { encodeHeader, type BlockHeader } from '../block/block.js';
import { TidemarkError } from '../core/errors.js';

const tagBytes = 16;
/** Nonce of the marks section; no entry lies at this position. */
const marksPosition = 0xffff_ffff_ffff_ffffn;

/** What the manifest's `group` record keeps so that a wrong key is found at open; says nothing of the key. */
export function keyCheckOf(key: Uint8Array, uuid: string): string {
  return createHmac('sha256', key).update(`tidemark journal key check 1 ${uuid}`).digest('hex');
}

/** Throws `encryption-key` when the group has another key, needs one, or needs none. */
export function checkKey(key: Uint8Array | undefined, uuid: string, keyCheck: string | undefined): void {
  if (key !== undefined && key.length !== 32)
    throw new TidemarkError('encryption-key', 'The journal key is not 32 bytes.');
  const found = key === undefined ? undefined : keyCheckOf(key, uuid);
  if (found === keyCheck) return;
  const what =
    key === undefined
      ? 'is encrypted and no key was given'
      : keyCheck
        ? 'was written with another key'
        : 'was begun without a key';
  throw new TidemarkError('encryption-key', `The journal of group ${uuid} ${what}.`);
}

/** The key of one segment. */
export function segmentKey(key: Uint8Array, salt: Uint8Array): Buffer {
  return Buffer.from(hkdfSync('sha256', key, salt, 'tidemark journal segment 1', 32));
}

function nonceOf(position: bigint): Buffer {
  const nonce = Buffer.alloc(12, position === marksPosition ? 0xff : 0);
  nonce.writeBigUInt64LE(position, 4);
  return nonce;
}

function seal(key: Buffer, nonce: Buffer, additional: Uint8Array, plain: Uint8Array): Buffer {
  const cipher = createCipheriv('aes-256-gcm', key, nonce);
  cipher.setAAD(additional);
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

function unseal(key: Buffer, nonce: Buffer, additional: Uint8Array, sealed: Uint8Array): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce);
  decipher.setAAD(additional);
  decipher.setAuthTag(sealed.subarray(sealed.length - tagBytes));
  try {
    return Buffer.concat([decipher.update(sealed.subarray(0, sealed.length - tagBytes)), decipher.final()]);
  } catch (cause) {
    throw new TidemarkError('journal-corrupt', 'A record of the journal does not decrypt.', { cause });
  }
}

/** The block's header before encryption, without its checksums, and the table. */
function additionalData(header: BlockHeader, table: Uint8Array, bodyStoredBytes: number): Buffer {
  const plain = Buffer.from(encodeHeader({ ...header, encrypted: false }, table, []));
  plain.writeUInt32LE(bodyStoredBytes, 44);
  plain.writeUInt32LE(0, 56);
  plain.writeUInt32LE(0, 76);
  return Buffer.concat([plain, table]);
}

/** Header and body of the block as they lie in the file. An empty body stays as it is, verbatim. */
export function encryptBlock(
  key: Buffer,
  position: number,
  header: BlockHeader,
  table: Uint8Array,
  body: Uint8Array,
): { head: Uint8Array; body: Buffer } {
  const additional = additionalData(header, table, body.length);
  const sealed = seal(key, nonceOf(BigInt(position)), additional, body);
  return { head: encodeHeader({ ...header, encrypted: true }, table, [sealed]), body: sealed };
}

/** The stored body before encryption; throws `journal-corrupt`. */
export function decryptBody(
  key: Buffer,
  position: number,
  header: BlockHeader,
  table: Uint8Array,
  body: Uint8Array,
): Buffer {
  if (body.length < tagBytes) throw new TidemarkError('journal-corrupt', 'An encrypted body is too short.');
  const additional = additionalData(header, table, body.length - tagBytes);
  return unseal(key, nonceOf(BigInt(position)), additional, body);
}

export function encryptMarks(key: Buffer, marks: Uint8Array): Buffer {
  return seal(key, nonceOf(marksPosition), Buffer.alloc(0), marks);
}

export function decryptMarks(key: Buffer, sealed: Uint8Array): Buffer {
  return unseal(key, nonceOf(marksPosition), Buffer.alloc(0), sealed);
}
