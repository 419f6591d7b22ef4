/**
 * The content of one segment as its entries are added in order: positions, marks, extents. The one place that decides
 * which entries count: parts of a folded range wait until the last one comes, and are void when their stream begins anew.
 */
import type { CheckpointMark, SyncMark } from '../block/record.js';
import { RecordKind } from '../block/record.js';
import { recordBytes, type BlockHeader } from '../block/block.js';
import { isPlanted } from '../core/planted.js';
import { addExtents, type EntryHead } from './entry.js';
import { comparePositions, type Position, type Vector } from './position.js';
import { RunBuilder } from './run-builder.js';
import type { JournalMark, JournalSyncMark } from './types.js';

/** True when the table holds a mark, whose payload the content needs. */
export function hasMarks(table: Uint8Array): boolean {
  for (let at = 0; at < table.length; at += recordBytes) {
    const kind = table[at] as number;
    if (kind === RecordKind.checkpoint || kind === RecordKind.syncBegin || kind === RecordKind.syncEnd) return true;
  }
  return false;
}

/** Why a block cannot follow `last` in its stream; undefined when it can. */
export function whyNotNext(header: BlockHeader, last: Position | undefined): string | undefined {
  if (last === undefined || header.incarnation > last.incarnation) return undefined;
  if (header.incarnation === last.incarnation && header.firstSequence === last.sequence + 1) return undefined;
  return `stream ${header.stream} goes from ${last.incarnation}/${last.sequence} to ${header.incarnation}/${header.firstSequence}`;
}

interface Part {
  readonly head: EntryHead;
  readonly body: Uint8Array | undefined;
}

export class SegmentContent {
  readonly heads: EntryHead[] = [];
  readonly marks: JournalMark[] = [];
  readonly syncMarks: JournalSyncMark[] = [];
  readonly first: Record<number, Position> = {};
  readonly last: Record<number, Position> = {};
  readonly builder = new RunBuilder();
  recordCount = 0;
  /** Goes up with every entry that counts; what was built from the content before is old then. */
  version = 0;
  readonly #open = new Map<number, Part[]>();

  /** `before`: the last positions of the streams before this segment, for the check of contiguity. */
  constructor(
    private readonly segmentId: number,
    private readonly before: Vector,
  ) {}

  /** True while a folded range of any stream waits for its last part. */
  get rangeOpen(): boolean {
    return this.#open.size > 0;
  }

  /** Gives up the open range of a stream. */
  abandon(stream: number): void {
    this.#open.delete(stream);
  }

  /** Gives up every open range; nothing more will be added. */
  abandonAll(): void {
    this.#open.clear();
  }

  /** Adds the next entry; `body` is the raw body when the table has marks. Returns why it cannot be next. */
  add(head: EntryHead, body: Uint8Array | undefined): string | undefined {
    const { header } = head;
    const parts = this.#open.get(header.stream) ?? [];
    if (!header.folded || header.part === 0) {
      const why = whyNotNext(header, this.last[header.stream] ?? this.before[header.stream]);
      if (why !== undefined) return why;
      parts.length = 0;
    } else if (!this.#isNextPart(header, parts)) {
      return `part ${header.part} of a folded range of stream ${header.stream} does not follow`;
    }
    if (!header.folded) {
      this.#open.delete(header.stream);
      this.#count({ head, body });
      return undefined;
    }
    parts.push({ head, body });
    if (header.lastPart || isPlanted('fold-partial-valid')) {
      this.#open.delete(header.stream);
      for (const part of parts) this.#count(part);
      if (!header.lastPart) this.#open.set(header.stream, []);
    } else this.#open.set(header.stream, parts);
    return undefined;
  }

  #isNextPart(header: BlockHeader, parts: readonly Part[]): boolean {
    if (isPlanted('fold-partial-valid')) return true;
    const first = parts[0]?.head.header;
    return (
      first !== undefined &&
      header.part === parts.length &&
      header.incarnation === first.incarnation &&
      header.firstSequence === first.firstSequence &&
      header.lastSequence === first.lastSequence
    );
  }

  #count({ head, body }: Part): void {
    const { stream, incarnation, firstSequence, lastSequence } = head.header;
    this.version++;
    this.heads.push(head);
    this.recordCount += head.header.recordCount;
    this.first[stream] ??= { incarnation, sequence: firstSequence };
    const last = { incarnation, sequence: lastSequence };
    if (comparePositions(this.last[stream] ?? { incarnation: 0, sequence: 0 }, last) < 0) this.last[stream] = last;
    addExtents(this.builder, this.segmentId, head);
    if (body !== undefined) this.#addMarks(head, body);
  }

  #addMarks({ header, table }: EntryHead, body: Uint8Array): void {
    const { stream, incarnation, epoch } = header;
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    for (let at = 0; at < table.length; at += recordBytes) {
      const kind = view.getUint8(at);
      if (kind !== RecordKind.checkpoint && kind !== RecordKind.syncBegin && kind !== RecordKind.syncEnd) continue;
      const from = view.getUint32(at + 16, true);
      const text = Buffer.from(body.subarray(from, from + view.getUint32(at + 4, true))).toString('utf8');
      const sequence = header.firstSequence + view.getUint32(at + 20, true);
      if (kind !== RecordKind.checkpoint) {
        const mark = JSON.parse(text) as SyncMark;
        this.syncMarks.push({ mark, begin: kind === RecordKind.syncBegin, stream, incarnation, sequence });
      } else if (!header.folded || sequence === header.lastSequence) {
        // Only the ends of a folded range can be recovered.
        this.marks.push({ mark: JSON.parse(text) as CheckpointMark, stream, incarnation, epoch, sequence });
      }
    }
  }
}
