/**
 * Folding: a run of unsent items becomes one folded range [first…last] that leaves the same bytes behind, where what a
 * newer record overwrites travels no more (design rule 5).
 *
 * Two passes, so that memory holds only tables: newest to oldest over the records, keeping the pieces that nothing newer
 * covers; then oldest to newest over the bodies that still matter, cut into parts of about `partBodyBytes`.
 * Crash marks within the run disappear, its last record, when a mark, stays.
 */
import { decodeBlock, decodeHeader, decodeTable, recordCountMax, type Block } from '../block/block.js';
import { blockBody } from '../block/body.js';
import { recordKinds, type RecordKind } from '../block/record.js';
import { releaseBytes } from '../core/release-bytes.js';
import { Coverage, bigCountMax, type ByteRange } from './coverage.js';
import type { BlockEncoder } from './encoder.js';
import type { EncodedBlock } from './encoded-block.js';
import type { QueueItem, RawRecord } from './queue-item.js';
import type { Spool, SpoolExtent } from './spool.js';

/** A record whose bytes are read only when something of it is left. */
interface Entry {
  readonly kind: RecordKind;
  readonly disk: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly sequence: number;
  readonly bodyOffset: number;
}

/** One block of an item: its records, and a way to its bytes. */
interface Source {
  readonly entries: readonly Entry[];
  /** Pieces of each entry that stay; undefined: none of the entry is left. */
  readonly left: (readonly ByteRange[] | undefined)[];
  bytes(): Promise<Bytes>;
}

interface Bytes {
  of(index: number): Uint8Array;
  /** Nothing of them is read any more. */
  release(): void;
}

export interface FoldResult {
  readonly blocks: EncodedBlock[];
  readonly extents: SpoolExtent[];
  readonly recordCount: number;
  readonly bodyBytes: number;
}

export interface FoldContext {
  readonly spool: Spool;
  readonly encoder: BlockEncoder;
  readonly yieldNow: () => Promise<void>;
  /** Where a result of so many bytes goes; undefined: there is no room for it now. */
  readonly place: (bytes: number) => 'memory' | 'spool' | undefined;
  /** Raw body of one part, at most 1 MiB; a longer record has a part of its own. */
  readonly partBodyBytes: number;
  /** Share of the run's bytes above which folding is not worth it; 1 folds always. */
  readonly shareMax: number;
}

/** Throws when a spooled block cannot be read back or written. */
export async function foldRun(
  run: readonly QueueItem[],
  context: FoldContext,
): Promise<FoldResult | 'no-gain' | 'no-room'> {
  const sources: Source[][] = [];
  const coverage = new Coverage();
  let beforeBytes = 0;
  let leftBytes = 0;
  let markCount = 0;
  for (const item of run.toReversed()) {
    const blocks = await openItem(item, context.spool);
    for (const block of blocks.toReversed()) {
      for (let index = block.entries.length - 1; index >= 0; index--) {
        const entry = block.entries[index] as Entry;
        const rules = recordKinds[entry.kind];
        if (rules.data) beforeBytes += entry.lengthBytes;
        if (rules.data || rules.zero) {
          const left = coverage.claim(entry.disk, entry.offsetBytes, entry.lengthBytes);
          if (left.length > 0) block.left[index] = left;
          if (rules.data) for (const piece of left) leftBytes += piece.lengthBytes;
        } else {
          markCount++;
          if (entry.sequence === run.at(-1)?.last) block.left[index] = [entry];
        }
      }
    }
    if (coverage.bigCount > bigCountMax) return 'no-gain';
    sources.push(blocks);
    await context.yieldNow();
  }
  const tiny = beforeBytes === 0 && markCount < run.length;
  if (context.shareMax < 1 && (leftBytes > beforeBytes * context.shareMax || tiny)) return 'no-gain';
  const place = context.place(leftBytes);
  if (place === undefined) return 'no-room';
  const writer = new PartWriter(run, context, place);
  try {
    for (const blocks of sources.reverse()) {
      for (const source of blocks) {
        if (source.left.every((left) => left === undefined)) continue;
        await copyLeft(source, writer);
        await context.yieldNow();
      }
    }
    return await writer.finish();
  } catch (error) {
    writer.abandon();
    throw error;
  }
}

async function openItem(item: QueueItem, spool: Spool): Promise<Source[]> {
  const { content } = item;
  if (content.at === 'gone') throw new Error('the item is gone');
  if (content.at === 'raw') {
    const { records } = content;
    const bytes: Bytes = { of: (index) => records[index]?.bytes ?? new Uint8Array(), release: () => undefined };
    const entries = records.map((record) => ({ ...record, bodyOffset: 0 }));
    return [{ entries, left: new Array(entries.length), bytes: () => Promise.resolve(bytes) }];
  }
  if (content.at === 'memory') {
    return content.blocks.map((block) => {
      const { header, table } = decodeHeader(Buffer.concat(block.slice(0, 2)));
      return fromBlock(decodeTable(header, table), () => Promise.resolve(decodeBlock(Buffer.concat(block))));
    });
  }
  const sources: Source[] = [];
  for (const extent of content.extents) {
    const { header, table } = await spool.readTable(extent);
    sources.push(fromBlock(decodeTable(header, table), () => spool.read(extent)));
  }
  return sources;
}

function fromBlock(entries: readonly Entry[], open: () => Promise<Block>): Source {
  return {
    entries,
    left: new Array<undefined>(entries.length),
    bytes: async () => {
      const block = await open();
      const body = blockBody(block);
      return {
        of: (index) => {
          const { bodyOffset, lengthBytes } = entries[index] as Entry;
          return body.subarray(bodyOffset, bodyOffset + lengthBytes);
        },
        release: () => {
          releaseBytes(body);
          releaseBytes(block.bytes);
        },
      };
    },
  };
}

async function copyLeft(source: Source, writer: PartWriter): Promise<void> {
  const bytes = await source.bytes();
  for (const [index, entry] of source.entries.entries()) {
    const left = source.left[index];
    if (left === undefined) continue;
    const { kind, disk, sequence } = entry;
    if (!recordKinds[kind].payload) {
      for (const piece of left)
        await writer.add({ kind, disk, ...piece, sequence, bytes: undefined, payload: undefined });
      continue;
    }
    const all = bytes.of(index);
    for (const { offsetBytes, lengthBytes } of left) {
      const from = offsetBytes - entry.offsetBytes;
      // A copy: the slice of a Buffer would keep its whole block.
      const piece = new Uint8Array(all.subarray(from, from + lengthBytes));
      await writer.add({ kind, disk, offsetBytes, lengthBytes, sequence, bytes: piece, payload: undefined });
    }
  }
  bytes.release();
}

/** Collects what is left into parts; the last one is known only at the end. */
class PartWriter {
  private readonly run: readonly QueueItem[];
  private readonly context: FoldContext;
  private readonly place: 'memory' | 'spool';
  private records: RawRecord[] = [];
  private partBytes = 0;
  private part = 0;
  private bodyBytes = 0;
  private recordCount = 0;
  private readonly blocks: EncodedBlock[] = [];
  private readonly extents: SpoolExtent[] = [];

  constructor(run: readonly QueueItem[], context: FoldContext, place: 'memory' | 'spool') {
    this.run = run;
    this.context = context;
    this.place = place;
  }

  async add(record: RawRecord): Promise<void> {
    const bytes = record.bytes?.length ?? 0;
    if (
      (this.partBytes > 0 && this.partBytes + bytes > this.context.partBodyBytes) ||
      this.records.length >= recordCountMax
    )
      await this.flush(false);
    this.records.push(record);
    this.partBytes += bytes;
  }

  async finish(): Promise<FoldResult> {
    await this.flush(true);
    this.context.spool.end(this);
    const { blocks, extents, recordCount, bodyBytes } = this;
    return { blocks, extents, recordCount, bodyBytes };
  }

  abandon(): void {
    const { spool } = this.context;
    spool.end(this);
    for (const extent of this.extents.splice(0)) spool.free(extent);
  }

  private async flush(lastPart: boolean): Promise<void> {
    const first = this.run[0] as QueueItem;
    const last = this.run.at(-1) as QueueItem;
    const place = {
      firstSequence: first.first,
      lastSequence: last.last,
      folded: true,
      part: this.part++,
      lastPart,
      sourceTimeUs: last.sourceTimeUs,
    };
    const block = await this.context.encoder.encodeCopy(this.records, this.partBytes, place);
    this.bodyBytes += this.partBytes;
    this.recordCount += this.records.length;
    this.records = [];
    this.partBytes = 0;
    if (this.place === 'memory') {
      this.blocks.push(block);
      return;
    }
    this.extents.push(await this.context.spool.append(block, this));
    for (const piece of block) releaseBytes(piece);
  }
}
