/**
 * Folding of a window of segments: which ranges it becomes, from the entries' heads alone. Between two kept marks of a
 * stream everything becomes one folded range: the final bytes, what must stay of the other records, the kept mark last.
 */
import { recordBytes } from '../block/block.js';
import { RecordKind, recordKinds } from '../block/record.js';
import { addExtents, type EntryHead } from './entry.js';
import { extentBytes, readExtent, type Extent } from './extent.js';
import { RunBuilder } from './run-builder.js';
import { headsOf, type Segment } from './segment.js';
import type { JournalContext } from './context.js';

/** A record that stays as it is: a kept mark, a sync mark, a change of a disk. */
export interface KeptRecord {
  readonly kind: RecordKind;
  readonly disk: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly sequence: number;
  /** Where its payload is. */
  readonly segmentId: number;
  readonly entryPosition: number;
  readonly bodyOffset: number;
  readonly syncId: string | undefined;
}

export interface FoldRange {
  readonly head: EntryHead['header'];
  readonly firstSequence: number;
  lastSequence: number;
  sourceTimeUs: number;
  readonly builder: RunBuilder;
  kept: KeptRecord[];
}

export interface FoldPlan {
  /** In the order they are to be written. */
  readonly ranges: FoldRange[];
  readonly marksRemoved: Set<string>;
  readonly compressed: boolean;
  /** Raw bytes of bodies and tables before and after. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

/** Undefined when the window cannot be folded: one disk was written by several streams, or a kept mark is inside a block. */
export async function planFold(
  context: JournalContext,
  window: readonly Segment[],
  keep: ReadonlySet<string>,
): Promise<FoldPlan | undefined> {
  const open = new Map<number, FoldRange>();
  const ranges: FoldRange[] = [];
  const streamOfDisk = new Map<number, number>();
  const marksRemoved = new Set<string>();
  let bytesBefore = 0;
  let compressed = false;
  const close = (stream: number): void => {
    const range = open.get(stream);
    if (range === undefined) return;
    open.delete(stream);
    dropPairs(range);
    ranges.push(range);
  };
  for (const segment of window) {
    const marks = new Map(
      segment.marks.map((mark) => [`${mark.stream}/${mark.incarnation}/${mark.sequence}`, mark.mark.id]),
    );
    const syncs = new Map(
      segment.syncMarks.map((mark) => [`${mark.stream}/${mark.incarnation}/${mark.sequence}`, mark.mark.syncId]),
    );
    for (const head of await headsOf(context, segment)) {
      const { header, table } = head;
      const { stream } = header;
      bytesBefore += header.bodyRawBytes + table.length;
      compressed ||= header.compressed;
      const current = open.get(stream);
      if (current !== undefined && !isSameRange(current, header)) close(stream);
      const range = open.get(stream) ?? {
        head: header,
        firstSequence: header.firstSequence,
        lastSequence: header.lastSequence,
        sourceTimeUs: header.sourceTimeUs,
        builder: new RunBuilder(),
        kept: [],
      };
      open.set(stream, range);
      range.lastSequence = header.lastSequence;
      range.sourceTimeUs = header.sourceTimeUs;
      const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
      let ends = false;
      for (let at = 0; at < table.length; at += recordBytes) {
        const kind = view.getUint8(at) as RecordKind;
        const disk = view.getUint16(at + 2, true);
        const sequence = header.firstSequence + view.getUint32(at + 20, true);
        const place = `${stream}/${header.incarnation}/${sequence}`;
        if (recordKinds[kind].data || recordKinds[kind].zero) {
          if ((streamOfDisk.get(disk) ?? stream) !== stream) return undefined;
          streamOfDisk.set(disk, stream);
          continue;
        }
        if (kind === RecordKind.base) continue;
        if (kind === RecordKind.checkpoint) {
          const id = marks.get(place);
          if (id === undefined || !keep.has(id)) {
            if (id !== undefined) marksRemoved.add(id);
            continue;
          }
          if (sequence !== header.lastSequence) return undefined;
          ends = true;
        }
        range.kept.push({
          kind,
          disk,
          offsetBytes: Number(view.getBigUint64(at + 8, true)),
          lengthBytes: view.getUint32(at + 4, true),
          sequence,
          segmentId: segment.id,
          entryPosition: head.position,
          bodyOffset: view.getUint32(at + 16, true),
          syncId: syncs.get(place),
        });
      }
      addExtents(range.builder, segment.id, head);
      if (ends && (!header.folded || header.lastPart)) close(stream);
    }
  }
  for (const stream of [...open.keys()]) close(stream);
  const bytesAfter = ranges.reduce((sum, range) => sum + sizeOf(range), 0);
  return { ranges, marksRemoved, compressed, bytesBefore, bytesAfter };
}

function isSameRange(range: FoldRange, header: EntryHead['header']): boolean {
  return (
    range.head.incarnation === header.incarnation &&
    range.head.epoch === header.epoch &&
    range.head.branch === header.branch &&
    header.lastSequence - range.firstSequence < 0xffff_ffff
  );
}

/** A sync that begins and ends inside one range is data like any other. */
function dropPairs(range: FoldRange): void {
  const ids = (kind: RecordKind): Set<string | undefined> =>
    new Set(range.kept.filter((record) => record.kind === kind).map((record) => record.syncId));
  const begun = ids(RecordKind.syncBegin);
  const ended = ids(RecordKind.syncEnd);
  range.kept = range.kept.filter(({ syncId }) => syncId === undefined || !begun.has(syncId) || !ended.has(syncId));
}

/** The extents of a range, in the order they lie in the sources (`order`: place of each segment in the window). */
export function extentsOf(range: FoldRange, order: ReadonlyMap<number, number>): Extent[] {
  const { bytes } = range.builder.run();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const extents: Extent[] = [];
  for (let at = 0; at < bytes.length; at += extentBytes) extents.push(readExtent(view, at));
  const place = (extent: Extent): number => order.get(extent.segmentId) ?? 0;
  return extents.sort(
    (a, b) => place(a) - place(b) || a.entryPosition - b.entryPosition || a.bodyOffset - b.bodyOffset,
  );
}

function sizeOf(range: FoldRange): number {
  const { bytes } = range.builder.run();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let total = range.kept.reduce((sum, record) => sum + record.lengthBytes + recordBytes, 0);
  for (let at = 0; at < bytes.length; at += extentBytes) {
    total += recordBytes + (view.getUint8(at + 12) === 2 ? 0 : view.getUint32(at + 8, true));
  }
  return total;
}
