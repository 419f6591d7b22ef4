/** Reads bytes of entries' raw bodies, each body checked in full at least once. */
import { decodeBlock } from '../block/block.js';
import { isTidemarkError } from '../core/errors.js';
import { BoundedCache } from './bounded-cache.js';
import type { JournalContext } from './context.js';
import { rawBody } from './entry.js';
import type { Segment } from './segment.js';
import { corruptSegment, decodeWrapper, wrapperBytes } from './segment-format.js';

/** Entries whose body was verified, remembered so that a piece of a plain body is read alone. */
const verifiedMax = 65_536;
const firstReadBytes = 64 * 1024;

export type BodySource = Pick<Segment, 'id' | 'path' | 'header' | 'key'>;

export class BodyReader {
  /** Position of the plain body in the file, -1 for a body that must be decoded. */
  readonly #verified = new BoundedCache<number, number>(verifiedMax);
  readonly #loading = new Map<number, Promise<Uint8Array>>();

  constructor(private readonly context: JournalContext) {}

  /** Fills `target` from `bodyOffset` of the entry's raw body; throws `journal-corrupt`. */
  async read(segment: BodySource, entryPosition: number, bodyOffset: number, target: Uint8Array): Promise<void> {
    const key = segment.id * 0x1_0000_0000 + entryPosition;
    const bodyPosition = this.#verified.get(key);
    if (bodyPosition !== undefined && bodyPosition >= 0) {
      const count = await this.context.files.readInto(segment.path, bodyPosition + bodyOffset, target);
      if (count !== target.length) throw corruptSegment(segment.path, 'the file is shorter than it was');
      return;
    }
    const raw = this.context.bodies.get(`${key}`) ?? (await this.#load(segment, entryPosition, key));
    if (bodyOffset + target.length > raw.length) throw corruptSegment(segment.path, 'an index points outside a body');
    target.set(raw.subarray(bodyOffset, bodyOffset + target.length));
  }

  #load(segment: BodySource, entryPosition: number, key: number): Promise<Uint8Array> {
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      loading = this.#decode(segment, entryPosition, key).finally(() => this.#loading.delete(key));
      this.#loading.set(key, loading);
    }
    return loading;
  }

  async #decode(segment: BodySource, position: number, key: number): Promise<Uint8Array> {
    const { files, bodies } = this.context;
    let bytes = await files.read(segment.path, position, firstReadBytes);
    const wrapper = decodeWrapper(bytes, 0, segment.header.seed);
    if (wrapper === undefined) throw corruptSegment(segment.path, `no valid entry at byte ${position}`);
    if (bytes.length < wrapper.totalBytes) bytes = await files.read(segment.path, position, wrapper.totalBytes);
    try {
      const block = decodeBlock(bytes.subarray(wrapperBytes, wrapperBytes + wrapper.blockBytes));
      const raw = rawBody(block.header, block.table, block.body, position, segment.key);
      const plain = !block.header.compressed && !block.header.encrypted;
      this.#verified.set(key, plain ? position + wrapperBytes + wrapper.blockBytes - raw.length : -1, 1);
      if (!plain) bodies.set(`${key}`, raw, raw.length);
      return raw;
    } catch (error) {
      if (!isTidemarkError(error, 'protocol-error')) throw error;
      throw corruptSegment(segment.path, `the entry at byte ${position}: ${error.message}`, error);
    }
  }
}
