/** Header of a digest file; layout and rules in REPLICA.md. */
import { crc32 } from 'node:zlib';
import { TidemarkError } from '../core/errors.js';
import { hash } from 'node:crypto';
import { chunkBytes } from './digest.js';

export const headerSlotBytes = 4096;
export const digestFileVersion = 1;
const magic = 0x474d5452; // RTMG
const flagEncrypted = 1;
const nameBytesMax = 255;

export interface DigestHeader {
  readonly generation: number;
  readonly sizeBytes: number;
  /** 16 random bytes; salt of the encryption key and identity of the file. */
  readonly salt: Uint8Array;
  /** First 8 bytes of SHA-256 over salt and key; undefined when plain. Refuses a wrong key before it does harm. */
  readonly keyCheck: Uint8Array | undefined;
  readonly name: string;
}

/** What `keyCheck` must be for this salt and key. */
export function keyCheckOf(salt: Uint8Array, key: Uint8Array): Uint8Array {
  return hash('sha256', Buffer.concat([Buffer.from('tidemark key check 1'), salt, key]), 'buffer').subarray(0, 8);
}

export function encodeHeader(header: DigestHeader): Uint8Array {
  const bytes = Buffer.alloc(headerSlotBytes);
  const name = Buffer.from(header.name);
  if (name.length > nameBytesMax) throw new TidemarkError('request-invalid', 'The name of a disk exceeds 255 bytes.');
  bytes.writeUInt32LE(magic, 0);
  bytes.writeUInt16LE(digestFileVersion, 4);
  bytes.writeUInt16LE(header.keyCheck === undefined ? 0 : flagEncrypted, 6);
  bytes.writeUInt32LE(header.generation, 8);
  bytes.writeUInt32LE(chunkBytes, 12);
  bytes.writeBigUInt64LE(BigInt(header.sizeBytes), 16);
  bytes.set(header.salt, 24);
  if (header.keyCheck !== undefined) bytes.set(header.keyCheck, 40);
  bytes.writeUInt16LE(name.length, 48);
  bytes.set(name, 50);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, headerSlotBytes - 4)), headerSlotBytes - 4);
  return bytes;
}

/** The header, `undefined` when this slot holds none; throws `format-version` for a newer one. */
export function decodeHeader(slot: Uint8Array, path: string): DigestHeader | undefined {
  const bytes = Buffer.from(slot.buffer, slot.byteOffset, slot.byteLength);
  if (bytes.length < headerSlotBytes || bytes.readUInt32LE(0) !== magic) return undefined;
  if (crc32(bytes.subarray(0, headerSlotBytes - 4)) !== bytes.readUInt32LE(headerSlotBytes - 4)) return undefined;
  const version = bytes.readUInt16LE(4);
  if (version > digestFileVersion) {
    throw new TidemarkError('format-version', `Digest file version ${version} is newer than ${digestFileVersion}.`, {
      path,
    });
  }
  const flags = bytes.readUInt16LE(6);
  const nameLength = bytes.readUInt16LE(48);
  const sizeBytes = Number(bytes.readBigUInt64LE(16));
  if (version !== digestFileVersion || (flags & ~flagEncrypted) !== 0) return undefined;
  if (bytes.readUInt32LE(12) !== chunkBytes || nameLength > nameBytesMax || !Number.isSafeInteger(sizeBytes))
    return undefined;
  return {
    generation: bytes.readUInt32LE(8),
    sizeBytes,
    salt: Uint8Array.from(bytes.subarray(24, 40)),
    keyCheck: (flags & flagEncrypted) !== 0 ? Uint8Array.from(bytes.subarray(40, 48)) : undefined,
    name: bytes.toString('utf8', 50, 50 + nameLength),
  };
}
