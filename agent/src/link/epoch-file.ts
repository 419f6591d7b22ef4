/**
 * What a source knows of its group's epoch, kept over restarts: a stale source must be able to prove what it knew.
 *
 * File `epoch`, two slots at 0 and 512 (one sector each), little-endian:
 *
 * | offset | bytes | field |
 * |---|---|---|
 * | 0  | 4 | magic `TMEP` |
 * | 4  | 4 | version, 1 |
 * | 8  | 8 | generation; slot = generation mod 2 |
 * | 16 | 8 | epoch number |
 * | 24 | 8 | branch id |
 * | 32 | 8 | source time at the save, milliseconds: the group's clock never starts before it |
 * | 40 | 4 | crc32 of bytes 0..39 |
 *
 * Valid if and only if magic, version and checksum agree; the valid slot of the greater generation counts. A crash can
 * leave the slot being written torn; the other holds what was saved before. The name is durable before the first save
 * returns.
 */
import { crc32 } from 'node:zlib';
import { isTidemarkError } from '../core/errors.js';
import type { Storage, StorageFile } from '../core/storage.js';

const magic = 0x50454d54;
const slotBytes = 512;
const usedBytes = 44;

export interface EpochState {
  readonly epoch: number;
  /** 8 bytes, lower-case hexadecimal. */
  readonly branch: string;
  readonly sourceTimeMs: number;
}

export const unknownEpoch: EpochState = { epoch: 0, branch: '0'.repeat(16), sourceTimeMs: 0 };

export class EpochFile {
  private readonly storage: Storage;
  private readonly directory: string;
  private generation = 0;

  constructor(storage: Storage, directory: string) {
    this.storage = storage;
    this.directory = directory;
  }

  private get path(): string {
    return `${this.directory}/epoch`;
  }

  /** The newest valid state; {@link unknownEpoch} when there is none. Throws a storage error. */
  async load(): Promise<EpochState> {
    let file: StorageFile;
    try {
      file = await this.storage.open(this.path, 'read');
    } catch (error) {
      if (isTidemarkError(error, 'storage-not-found')) return unknownEpoch;
      throw error;
    }
    const bytes = new Uint8Array(2 * slotBytes);
    await file.read(bytes, 0).finally(() => file.close());
    let state = unknownEpoch;
    for (const slot of [0, 1]) {
      const found = decode(bytes.subarray(slot * slotBytes, slot * slotBytes + usedBytes));
      if (found === undefined || found.generation <= this.generation) continue;
      this.generation = found.generation;
      state = found;
    }
    return state;
  }

  /** Durable when it returns. Throws a storage error; the state before it is then still readable. */
  async save(state: EpochState): Promise<void> {
    await this.storage.makeDirectory(this.directory);
    const created = !(await this.storage.exists(this.path));
    const file = await this.storage.open(this.path, created ? 'create' : 'write');
    try {
      const generation = this.generation + 1;
      await file.write(encode(generation, state), (generation % 2) * slotBytes);
      await file.datasync();
      await this.storage.syncDirectory(this.directory);
      this.generation = generation;
    } finally {
      await file.close();
    }
  }
}

function encode(generation: number, state: EpochState): Uint8Array {
  const bytes = new Uint8Array(slotBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, magic, true);
  view.setUint32(4, 1, true);
  view.setBigUint64(8, BigInt(generation), true);
  view.setBigUint64(16, BigInt(state.epoch), true);
  view.setBigUint64(24, BigInt('0x' + state.branch), true);
  view.setBigUint64(32, BigInt(Math.floor(state.sourceTimeMs)), true);
  view.setUint32(40, crc32(bytes.subarray(0, 40)), true);
  return bytes;
}

function decode(bytes: Uint8Array): (EpochState & { generation: number }) | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== magic || view.getUint32(4, true) !== 1) return undefined;
  if (crc32(bytes.subarray(0, 40)) !== view.getUint32(40, true)) return undefined;
  return {
    generation: Number(view.getBigUint64(8, true)),
    epoch: Number(view.getBigUint64(16, true)),
    branch: view.getBigUint64(24, true).toString(16).padStart(16, '0'),
    sourceTimeMs: Number(view.getBigUint64(32, true)),
  };
}
