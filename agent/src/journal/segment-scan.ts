/** Reads the entries of a segment one after the other and checks each (SEGMENT.md, "Entry"). */
import { blockBytesMax, decodeBlock, decodeHeader, type Block } from '../block/block.js';
import { isTidemarkError } from '../core/errors.js';
import { isPlanted } from '../core/planted.js';
import type { StorageFile } from '../core/storage.js';
import { decodeWrapper, segmentHeaderBytes, wrapperBytes, wrapperMagic, type Wrapper } from './segment-format.js';

const windowBytes = 8 * 1024 * 1024;

/** A window over a file that moves forward. */
class Window {
  #bytes: Buffer = Buffer.alloc(0);
  #from = 0;

  constructor(private readonly file: Pick<StorageFile, 'read'>) {}

  /** Bytes from `position` on: at least `lengthBytes` unless the file ends before. */
  async at(position: number, lengthBytes: number): Promise<Buffer> {
    const have = this.#from + this.#bytes.length - position;
    if (position < this.#from || have < lengthBytes) {
      const next = Buffer.allocUnsafeSlow(Math.max(windowBytes, lengthBytes));
      const count = await this.file.read(next, position);
      this.#bytes = next.subarray(0, count);
      this.#from = position;
    }
    return this.#bytes.subarray(position - this.#from);
  }
}

export interface ScannedEntry {
  readonly position: number;
  readonly wrapper: Wrapper;
  /** Undefined for a watermark. Its bytes are valid during the call only. */
  readonly block: Block | undefined;
}

/**
 * Visits the valid entries from the header to `endBytes`. Returns where it stopped: `endBytes` when all are good, else
 * the first bad entry and what is wrong. The visitor may refuse an entry by returning why.
 */
export async function scanEntries(
  file: Pick<StorageFile, 'read'>,
  seed: number,
  endBytes: number,
  visit: (entry: ScannedEntry) => string | undefined | Promise<string | undefined>,
): Promise<{ position: number; bad?: string; refused?: string }> {
  const window = new Window(file);
  let position = segmentHeaderBytes;
  while (position < endBytes) {
    const start = (await window.at(position, wrapperBytes)).subarray(0, endBytes - position);
    const wrapper = decodeWrapper(start, 0, seed);
    if (wrapper === undefined) return { position, bad: 'no valid entry' };
    if (position + wrapper.totalBytes > endBytes) return { position, bad: 'the entry is cut short' };
    let block: Block | undefined;
    if (!wrapper.watermark) {
      const bytes = await window.at(position, wrapper.totalBytes);
      if (bytes.length < wrapper.totalBytes) return { position, bad: 'the entry is cut short' };
      try {
        block = decodeEntryBlock(bytes.subarray(wrapperBytes, wrapperBytes + wrapper.blockBytes));
      } catch (error) {
        if (!isTidemarkError(error, 'protocol-error')) throw error;
        return { position, bad: error.message };
      }
      if (bytes.subarray(wrapperBytes + wrapper.blockBytes, wrapper.totalBytes).some((byte) => byte !== 0)) {
        return { position, bad: 'padding' };
      }
    }
    const refused = await visit({ position, wrapper, block });
    if (refused !== undefined) return { position, refused };
    position += wrapper.totalBytes;
  }
  return { position };
}

function decodeEntryBlock(bytes: Buffer): Block {
  if (!isPlanted('torn-tail-kept')) return decodeBlock(bytes);
  const { header, table } = decodeHeader(bytes);
  return { header, table, body: bytes.subarray(bytes.length - header.bodyStoredBytes), bytes };
}

/** True when an entry behind `position` says that the file was durable beyond it. */
export async function isWitnessed(
  file: Pick<StorageFile, 'read'>,
  seed: number,
  position: number,
  fileBytes: number,
): Promise<boolean> {
  const window = new Window(file);
  for (let at = position + 8; at + wrapperBytes <= fileBytes;) {
    const bytes = await window.at(at, Math.min(blockBytesMax, fileBytes - at));
    const last = bytes.length - wrapperBytes;
    for (let offset = 0; offset <= last; offset += 8) {
      if (bytes.readUInt32LE(offset) !== wrapperMagic) continue;
      const wrapper = decodeWrapper(bytes, offset, seed);
      if (wrapper !== undefined && wrapper.durableBytes > position) return true;
    }
    if (last < 0) return false;
    at += (Math.floor(last / 8) + 1) * 8;
  }
  return false;
}
