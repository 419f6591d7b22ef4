/**
 * Encryption at rest of a raw file: AES-256-XTS over 4 KiB sectors; the tweak is the sector's number in the file, the
 * key is derived for each file from the given one. Deterministic: the same bytes at the same place encrypt the same,
 * so rewriting a neighbour's bytes changes nothing on disk, and a torn sector decrypts to old or new bytes.
 */
import { createCipheriv, createDecipheriv, hkdfSync } from 'node:crypto';
import { invariant } from '../core/invariant.js';

export const sectorBytes = 4096;
const algorithm = 'aes-256-xts';

export class SectorCipher {
  readonly #key: Buffer;
  readonly #tweak = Buffer.alloc(16);

  /** `key`: the 32-byte key at rest; `salt`: from the file's header; `purpose`: the format's name and version. */
  constructor(key: Uint8Array, salt: Uint8Array, purpose: string) {
    this.#key = Buffer.from(hkdfSync('sha256', key, salt, purpose, 64));
  }

  /** `source` (whole sectors) encrypted into `target`, which may be `source`. `offsetBytes`: place in the file. */
  encrypt(source: Uint8Array, target: Uint8Array, offsetBytes: number): void {
    this.#run(source, target, offsetBytes, true);
  }

  decrypt(source: Uint8Array, target: Uint8Array, offsetBytes: number): void {
    this.#run(source, target, offsetBytes, false);
  }

  #run(source: Uint8Array, target: Uint8Array, offsetBytes: number, encrypt: boolean): void {
    invariant(offsetBytes % sectorBytes === 0 && source.length % sectorBytes === 0, 'cipher works on whole sectors');
    for (let at = 0; at < source.length; at += sectorBytes) {
      const sector = (offsetBytes + at) / sectorBytes;
      this.#tweak.writeUInt32LE(sector >>> 0, 0);
      this.#tweak.writeUInt32LE(Math.floor(sector / 2 ** 32), 4);
      const cipher = encrypt
        ? createCipheriv(algorithm, this.#key, this.#tweak)
        : createDecipheriv(algorithm, this.#key, this.#tweak);
      target.set(cipher.update(source.subarray(at, at + sectorBytes)), at);
    }
  }
}
