/** Writes one segment: entries in batches, then the footer. Used by the journal's writer loop and by compaction. */
import { encodeHeader, type Block } from '../block/block.js';
import { RecordKind } from '../block/record.js';
import { recordBytes } from '../block/block.js';
import { isPlanted } from '../core/planted.js';
import type { StorageFile } from '../core/storage.js';
import { keyOfSegment, segmentPath, type JournalContext } from './context.js';
import { encryptBlock } from './encryption.js';
import { createHead, rawBody, type EntryHead } from './entry.js';
import type { Vector } from './position.js';
import { hasMarks, SegmentContent } from './segment-content.js';
import { encodeFooter } from './segment-footer.js';
import {
  encodeSegmentHeader,
  encodeWrapper,
  paddedBytes,
  segmentHeaderBytes,
  decodeSegmentHeader,
  wrapperBytes,
  type SegmentHeader,
} from './segment-format.js';
import type { SegmentEntry } from '../target/manifest-records.js';

/** An entry that was given its place and waits to be written. */
export interface PlacedEntry {
  readonly head: EntryHead;
  /** The raw body when the entry has marks. */
  readonly body: Uint8Array | undefined;
  readonly pieces: readonly Uint8Array[];
}

const padding = Buffer.alloc(8);

export class SegmentWriter {
  readonly content: SegmentContent;
  /** End of what `place` handed out, and of what is fdatasynced. */
  endBytes = segmentHeaderBytes;
  durableBytes = segmentHeaderBytes;

  private constructor(
    readonly id: number,
    readonly path: string,
    readonly header: SegmentHeader,
    readonly file: StorageFile,
    readonly key: Buffer | undefined,
    before: Vector,
  ) {
    this.content = new SegmentContent(id, before);
  }

  /** Creates the file (over a left-over) with a durable header and name. */
  static async create(context: JournalContext, id: number, before: Vector): Promise<SegmentWriter> {
    const path = segmentPath(context, id);
    await context.storage.remove(path);
    const file = await context.storage.open(path, 'create', { bulk: true });
    try {
      const bytes = encodeSegmentHeader(context.uuid, id, context.random.bytes(16), context.key !== undefined);
      await file.write(bytes, 0);
      await file.datasync();
      if (!isPlanted('skip-directory-fsync')) await context.storage.syncDirectory(context.segmentDirectory);
      const header = decodeSegmentHeader(bytes, context.uuid, id, path);
      return new SegmentWriter(id, path, header, file, keyOfSegment(context, header.salt, header.encrypted), before);
    } catch (error) {
      await file.close().catch(() => undefined);
      await context.storage.remove(path).catch(() => undefined);
      throw error;
    }
  }

  /** Gives the block its place at the end of the segment. */
  place(block: Block, elided: boolean): PlacedEntry {
    const position = this.endBytes;
    const marked = hasMarks(block.table);
    const body = marked ? rawBody(block.header, block.table, block.body, position, undefined) : undefined;
    let blockPieces: Uint8Array[] = [block.bytes];
    const left = elided && isElidable(block);
    if (left) {
      const { header } = block;
      const range = header.folded ? header : { ...header, folded: true, part: 0, lastPart: true };
      blockPieces = [encodeHeader({ ...range, compressed: false, bodyRawBytes: 0 }, new Uint8Array(0), [])];
    } else if (this.key !== undefined && block.body.length > 0) {
      const sealed = encryptBlock(this.key, position, block.header, block.table, block.body);
      blockPieces = [sealed.head, block.table, sealed.body];
    }
    const blockBytes = blockPieces.reduce((sum, piece) => sum + piece.length, 0);
    const totalBytes = paddedBytes(blockBytes);
    const wrapper = encodeWrapper(this.header.seed, blockBytes, this.durableBytes, left);
    const headSource = blockPieces.length > 1 ? Buffer.concat(blockPieces.slice(0, 2)) : (blockPieces[0] as Uint8Array);
    this.endBytes += totalBytes;
    return {
      head: createHead(position, totalBytes, headSource),
      body,
      pieces: [wrapper, ...blockPieces, padding.subarray(0, totalBytes - wrapperBytes - blockBytes)],
    };
  }

  /** Writes placed entries; they must be written in the order they were placed. */
  async write(entries: readonly PlacedEntry[]): Promise<void> {
    const first = entries[0];
    if (first !== undefined)
      await this.file.writeAll(
        entries.flatMap((entry) => entry.pieces),
        first.head.position,
      );
  }

  async datasync(): Promise<void> {
    const endBytes = this.endBytes;
    try {
      await this.file.datasync();
    } catch (error) {
      if (!isPlanted('failed-fsync-ignored')) throw error;
    }
    this.durableBytes = endBytes;
  }

  /** Says in the file how much of it is durable, as a witness for the last batch. Best effort. */
  async writeWatermark(): Promise<void> {
    const wrapper = encodeWrapper(this.header.seed, 0, this.durableBytes, false);
    await this.file.write(wrapper, this.endBytes);
    await this.file.datasync();
    this.endBytes += wrapper.length;
  }

  /** What the manifest says of the segment; only entries that are durable count. */
  entry(): SegmentEntry {
    const { recordCount, first, last } = this.content;
    return { id: this.id, validBytes: this.durableBytes, recordCount, first: { ...first }, last: { ...last } };
  }

  /** Writes the footer and fdatasyncs. */
  async writeFooter(): Promise<void> {
    await this.file.writeAll(
      encodeFooter(this.content, this.durableBytes, this.header.seed, this.key),
      this.durableBytes,
    );
    await this.file.datasync();
  }
}

/** Only base data may be left out of the journal. */
function isElidable(block: Block): boolean {
  for (let at = 0; at < block.table.length; at += recordBytes) if (block.table[at] !== RecordKind.base) return false;
  return true;
}
