/** Compaction: folds runs of sealed segments where enough is dropped, writes them anew, publishes by one record. */
import { zstdCompressSync, constants } from 'node:zlib';
import { decodeBlock, encodeBlock, recordPayloadBytesMax } from '../block/block.js';
import type { BlockRecord } from '../block/record.js';
import { RecordKind } from '../block/record.js';
import { invariant } from '../core/invariant.js';
import { isPlanted } from '../core/planted.js';
import type { ManifestLog } from '../target/manifest-records.js';
import type { BodyReader } from './body-reader.js';
import type { JournalContext } from './context.js';
import { extentsOf, planFold, type FoldPlan, type FoldRange } from './fold.js';
import { isVectorWithin, type Vector } from './position.js';
import type { SegmentList } from './segment-list.js';
import { SegmentWriter, type PlacedEntry } from './segment-writer.js';
import { loadSegment, type Segment } from './segment.js';
import type { Journal, JournalSyncMark } from './types.js';

/** A fold must leave at most this part of the bytes to be worth it. */
const worthRatio = 0.8;
/** Or it puts at least this many segments together that fit into half of one. */
const smallSegmentCount = 4;
/** Windows that one call plans before it gives up. */
const planCountMax = 2;
const fruitlessMax = 1024;
const partBytesGoal = 512 * 1024;
const partRecordsMax = 4096;
const writeBytesGoal = 4 * 1024 * 1024;
/** Bytes that one call rewrites at most. */
const windowBytesMax = 0x8000_0000;

type Request = Parameters<Journal['compact']>[0];

export interface Compaction {
  readonly context: JournalContext;
  readonly manifest: ManifestLog;
  readonly list: SegmentList;
  readonly bodies: BodyReader;
  readonly nextId: () => number;
  /** Windows that were planned and not worth it. */
  readonly fruitless: Set<string>;
  readonly syncMarks: readonly JournalSyncMark[];
  /** Newest of each stream. */
  readonly received: Vector;
  readonly request: Request;
}

/** Compacts one window; undefined when nothing was worth it. */
export async function compactSegments(compaction: Compaction): ReturnType<Journal['compact']> {
  const { context, fruitless, request } = compaction;
  const eligible = eligibleSegments(compaction);
  let planned = 0;
  for (let from = 0; from < eligible.length && planned < planCountMax; from++) {
    const window = windowAt(eligible, from, request.segmentCountMax);
    const small = isSmall(context, window);
    const dropped = droppedMarks(window, request.keep);
    const firstDrops = droppedMarks(window.slice(0, 1), request.keep).length > 0;
    if (!firstDrops && !small && request.anywhere !== true) continue;
    const key = `${window.map((segment) => segment.id).join()}:${dropped.length}`;
    if (fruitless.has(key)) continue;
    planned++;
    const plan = await planFold(context, window, request.keep);
    if (plan !== undefined && (plan.bytesAfter <= plan.bytesBefore * worthRatio || small)) {
      return rewrite(compaction, window, plan);
    }
    if (fruitless.size >= fruitlessMax) fruitless.clear();
    fruitless.add(key);
  }
  return undefined;
}

/** Sealed segments from the oldest on that lie within the request and before any unfinished sync. */
function eligibleSegments({ list, syncMarks, received, request }: Compaction): Segment[] {
  const ended = new Set(syncMarks.filter((mark) => !mark.begin).map((mark) => `${mark.stream}/${mark.mark.syncId}`));
  // One of an incarnation that is over will never end: the next incarnation has synced its disks again.
  const mayEnd = ({ stream, incarnation }: JournalSyncMark): boolean => received[stream]?.incarnation === incarnation;
  const open = new Set(
    syncMarks.filter((mark) => mark.begin && mayEnd(mark) && !ended.has(`${mark.stream}/${mark.mark.syncId}`)),
  );
  const count = list.all.findIndex(
    (segment) =>
      !isVectorWithin(segment.entry.last, request.through) || segment.syncMarks.some((mark) => open.has(mark)),
  );
  return list.all.slice(0, count < 0 ? undefined : count);
}

function windowAt(segments: readonly Segment[], from: number, countMax: number): Segment[] {
  const window: Segment[] = [];
  let bytes = 0;
  for (const segment of segments.slice(from, from + countMax)) {
    bytes += segment.entry.validBytes;
    if (bytes > windowBytesMax) break;
    window.push(segment);
  }
  return window;
}

function isSmall(context: JournalContext, window: readonly Segment[]): boolean {
  const bytes = window.reduce((sum, segment) => sum + segment.entry.validBytes, 0);
  return window.length >= smallSegmentCount && bytes <= context.segmentBytes / 2;
}

function droppedMarks(window: readonly Segment[], keep: ReadonlySet<string>): string[] {
  return window.flatMap((segment) =>
    segment.marks.filter((mark) => !keep.has(mark.mark.id)).map((mark) => mark.mark.id),
  );
}

async function rewrite(
  compaction: Compaction,
  window: readonly Segment[],
  plan: FoldPlan,
): ReturnType<Journal['compact']> {
  const { context, manifest, list } = compaction;
  const written = new FoldWriter(compaction, window, plan.compressed);
  const removed = window.map((segment) => segment.id);
  const added: Segment[] = [];
  try {
    for (const range of plan.ranges) await written.writeRange(range);
    await written.finish();
    if (isPlanted('delete-before-compaction-switch')) {
      for (const segment of window) await context.storage.remove(segment.path);
      await context.storage.syncDirectory(context.segmentDirectory);
    }
    for (const writer of written.done) added.push(await loadSegment(context, writer.entry()));
  } catch (error) {
    await written.discard();
    throw error;
  }
  // A pin may have come meanwhile: the caller has the last word. A rejection leaves it open which list is the durable one: the new files stay until the next open decides.
  const published = await compaction.request.publish([...plan.marksRemoved], async () => {
    await manifest.append({ type: 'segments-replaced', removed, added: added.map((segment) => segment.entry) });
    list.replace(removed, added);
  });
  if (!published) {
    await written.discard();
    return undefined;
  }
  await list.references.settle();
  const bytesOf = (segments: readonly Segment[]): number =>
    segments.reduce((sum, segment) => sum + segment.fileBytes, 0);
  return { bytesBefore: bytesOf(window), bytesAfter: bytesOf(added), marksRemoved: [...plan.marksRemoved] };
}

/** Writes folded ranges into new segments; holds one part in memory. */
class FoldWriter {
  readonly done: SegmentWriter[] = [];
  #writer: SegmentWriter | undefined;
  #placed: PlacedEntry[] = [];
  #placedBytes = 0;
  readonly #sources: ReadonlyMap<number, Segment>;
  readonly #order: ReadonlyMap<number, number>;

  constructor(
    private readonly compaction: Compaction,
    window: readonly Segment[],
    private readonly compress: boolean,
  ) {
    this.#sources = new Map(window.map((segment) => [segment.id, segment]));
    this.#order = new Map(window.map((segment, index) => [segment.id, index]));
  }

  async writeRange(range: FoldRange): Promise<void> {
    const { context, nextId } = this.compaction;
    if (this.#writer !== undefined && this.#writer.endBytes >= context.segmentBytes) await this.finish();
    this.#writer ??= await SegmentWriter.create(context, nextId(), {});
    let records: BlockRecord[] = [];
    let body: Buffer[] = [];
    let bodyBytes = 0;
    let part = 0;
    const put = async (
      record: Omit<BlockRecord, 'bodyOffset'>,
      source: Parameters<FoldWriter['read']>[0] | undefined,
    ): Promise<void> => {
      const full = bodyBytes >= partBytesGoal || records.length >= partRecordsMax;
      if (full) {
        await this.#writePart(range, part++, false, records, body, bodyBytes);
        records = [];
        body = [];
        bodyBytes = 0;
      }
      records.push({ ...record, bodyOffset: source === undefined ? 0 : bodyBytes });
      if (source === undefined) return;
      body.push(await this.read(source, record.lengthBytes));
      bodyBytes += record.lengthBytes;
    };
    for (const extent of extentsOf(range, this.#order)) {
      for (let skip = 0; skip < extent.lengthBytes;) {
        const lengthBytes = extent.zero
          ? extent.lengthBytes
          : Math.min(extent.lengthBytes - skip, recordPayloadBytesMax);
        const record = {
          kind: extent.zero ? RecordKind.zero : RecordKind.write,
          disk: extent.disk,
          lengthBytes,
          offsetBytes: extent.offsetBytes + skip,
          sequence: range.firstSequence,
        };
        await put(record, extent.zero ? undefined : { ...extent, bodyOffset: extent.bodyOffset + skip });
        skip += lengthBytes;
      }
    }
    for (const { kind, disk, offsetBytes, lengthBytes, sequence, ...source } of range.kept) {
      await put({ kind, disk, offsetBytes, lengthBytes, sequence }, source);
    }
    await this.#writePart(range, part, true, records, body, bodyBytes);
  }

  /** Makes the present segment durable and whole. */
  async finish(): Promise<void> {
    const writer = this.#writer;
    if (writer === undefined) return;
    await this.#flush();
    await writer.datasync();
    await writer.writeFooter();
    await writer.file.close();
    this.done.push(writer);
    this.#writer = undefined;
  }

  async discard(): Promise<void> {
    const writers = [...this.done, ...(this.#writer ? [this.#writer] : [])];
    for (const writer of writers) {
      await writer.file.close().catch(() => undefined);
      this.compaction.list.references.drop(writer.path);
    }
  }

  private async read(
    source: { segmentId: number; entryPosition: number; bodyOffset: number },
    lengthBytes: number,
  ): Promise<Buffer> {
    const segment = this.#sources.get(source.segmentId);
    invariant(segment !== undefined, 'compaction reads outside its window');
    const target = Buffer.alloc(lengthBytes);
    await this.compaction.bodies.read(segment, source.entryPosition, source.bodyOffset, target);
    return target;
  }

  async #writePart(
    range: FoldRange,
    part: number,
    lastPart: boolean,
    records: readonly BlockRecord[],
    body: readonly Buffer[],
    bodyRawBytes: number,
  ): Promise<void> {
    const writer = this.#writer as SegmentWriter;
    let stored = Buffer.concat(body);
    let compressed = false;
    if (this.compress && stored.length > 0) {
      const smaller = zstdCompressSync(stored, { params: { [constants.ZSTD_c_compressionLevel]: 1 } });
      compressed = smaller.length < stored.length * 0.9;
      if (compressed) stored = smaller;
    }
    const { stream, epoch, branch, incarnation } = range.head;
    const { firstSequence, lastSequence, sourceTimeUs } = range;
    const header = { stream, epoch, branch, incarnation, firstSequence, lastSequence, sourceTimeUs, bodyRawBytes };
    const bytes = encodeBlock({ ...header, folded: true, part, lastPart, compressed, encrypted: false }, records, [
      stored,
    ]);
    const entry = writer.place(decodeBlock(bytes), false);
    this.#placed.push(entry);
    this.#placedBytes += bytes.length;
    const why = writer.content.add(entry.head, entry.body);
    invariant(why === undefined, `compaction: ${why}`);
    if (this.#placedBytes >= writeBytesGoal) await this.#flush();
  }

  async #flush(): Promise<void> {
    const placed = this.#placed;
    this.#placed = [];
    this.#placedBytes = 0;
    await this.#writer?.write(placed);
  }
}
