/** A raw file, plain or encrypted by sectors; reads past its end are zeros. */
import { invariant } from '../core/invariant.js';
import type { StorageFile } from '../core/storage.js';
import type { SectorCipher } from './sector-cipher.js';
import { sectorBytes } from './sector-cipher.js';

export class SectorFile {
  readonly #file: StorageFile;
  readonly #cipher: SectorCipher | undefined;

  constructor(file: StorageFile, cipher: SectorCipher | undefined) {
    this.#file = file;
    this.#cipher = cipher;
  }

  get encrypted(): boolean {
    return this.#cipher !== undefined;
  }

  /** Fills `target`, at any offset and length. */
  async read(target: Uint8Array, offsetBytes: number): Promise<void> {
    if (this.#cipher === undefined) {
      const count = await this.#file.read(target, offsetBytes);
      if (count < target.length) target.fill(0, count);
      return;
    }
    const first = Math.floor(offsetBytes / sectorBytes) * sectorBytes;
    const end = Math.ceil((offsetBytes + target.length) / sectorBytes) * sectorBytes;
    const aligned = first === offsetBytes && end - first === target.length;
    const stored = aligned ? target : Buffer.allocUnsafe(end - first);
    const count = await this.#file.read(stored, first);
    if (count < stored.length) stored.fill(0, count);
    this.#cipher.decrypt(stored, stored, first);
    if (!aligned) target.set(stored.subarray(offsetBytes - first, offsetBytes - first + target.length));
  }

  /** Writes whole sectors when encrypted, anything when plain. The pieces are left unchanged. */
  async write(pieces: readonly Uint8Array[], offsetBytes: number): Promise<void> {
    const cipher = this.#cipher;
    if (cipher === undefined) {
      const only = pieces.length === 1 ? pieces[0] : undefined;
      await (only === undefined ? this.#file.writeAll(pieces, offsetBytes) : this.#file.write(only, offsetBytes));
      return;
    }
    invariant(offsetBytes % sectorBytes === 0, 'an encrypted write starts at a sector');
    const plain = pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
    const stored = Buffer.allocUnsafe(plain.length);
    cipher.encrypt(plain, stored, offsetBytes);
    await this.#file.write(stored, offsetBytes);
  }

  datasync(): Promise<void> {
    return this.#file.datasync();
  }

  truncate(lengthBytes: number): Promise<void> {
    return this.#file.truncate(lengthBytes);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
