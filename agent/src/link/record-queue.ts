/**
 * The queue of one stream: gives sequences, cuts records into chunks, keeps items until they are durable, counts what
 * they hold. Everything here is synchronous.
 */
import { bodyBytesMax, recordPayloadBytesMax } from '../block/block.js';
import type { RecordKind } from '../block/record.js';
import { invariant } from '../core/invariant.js';
import type { Payload } from '../nbd/payload.js';
import {
  memoryBytesOf,
  recordOverheadBytes,
  type ItemContent,
  type ItemEnd,
  type QueuedMark,
  type QueueItem,
  type RawRecord,
} from './queue-item.js';
import type { Spool } from './spool.js';

/** A chunk is closed at so many payload bytes (less when the buffer is small) or records. */
export const chunkBodyBytesMax = 256 * 1024;
export const chunkRecordCount = 2048;

export interface RecordInput {
  readonly kind: RecordKind;
  readonly disk: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly bytes?: Uint8Array | undefined;
  /** Already retained for this queue, which releases it. */
  readonly payload?: Payload | undefined;
}

/** Where a record belongs: `base` and `mark` records never share a chunk with others. */
export type ChunkClass = 'data' | 'base' | 'alone';

export class RecordQueue {
  private readonly spool: Spool;
  private readonly chunkBodyBytes: number;
  private list: QueueItem[] = [];
  private open: RawRecord[] = [];
  private openBodyBytes = 0;
  private openClass: ChunkClass = 'data';
  private openTimeUs = 0;
  /** Last sequence given. */
  sequence = 0;
  /** Memory of all items and the open chunk. */
  memoryBytes = 0;
  /** Body bytes of items that were not sent on this connection, the open chunk included. */
  unsentBytes = 0;
  /** Body bytes sent on this connection and not durable. */
  inFlightBytes = 0;
  unsentRecordCount = 0;
  /** Chunks closed so far. */
  sealCount = 0;
  /** Bytes that guests wrote so far; data of a sync does not count. */
  guestBytes = 0;

  constructor(spool: Spool, chunkBodyBytes = chunkBodyBytesMax) {
    this.spool = spool;
    this.chunkBodyBytes = chunkBodyBytes;
  }

  get items(): readonly QueueItem[] {
    return this.list;
  }

  get openRecordCount(): number {
    return this.open.length;
  }

  get openBytes(): number {
    return this.openBodyBytes;
  }

  /** True when everything given was sent on this connection. */
  get drained(): boolean {
    return this.open.length === 0 && this.firstUnsent() === undefined;
  }

  /** Gives the next sequence. `chunkClass`: what the record may share a chunk with. */
  append(input: RecordInput, timeUs: number, chunkClass: ChunkClass): number {
    const payloadBytes = input.bytes?.length ?? 0;
    invariant(payloadBytes <= recordPayloadBytesMax, 'record over its bound');
    const full = this.openBodyBytes + payloadBytes > bodyBytesMax / 2;
    if (this.open.length > 0 && (full || this.openClass !== chunkClass || chunkClass === 'alone')) this.seal('open');
    const sequence = ++this.sequence;
    const { kind, disk, offsetBytes, lengthBytes, bytes, payload } = input;
    this.open.push({ kind, disk, offsetBytes, lengthBytes, bytes, payload, sequence });
    this.openClass = chunkClass;
    this.openTimeUs = timeUs;
    this.openBodyBytes += payloadBytes;
    this.memoryBytes += payloadBytes + recordOverheadBytes;
    this.unsentBytes += payloadBytes;
    if (payload !== undefined) this.guestBytes += payloadBytes;
    this.unsentRecordCount++;
    if (chunkClass === 'alone' || this.openBodyBytes >= this.chunkBodyBytes || this.open.length >= chunkRecordCount)
      this.seal('open');
    return sequence;
  }

  /** Closes the open chunk. */
  seal(end: ItemEnd, mark?: QueuedMark): void {
    const first = this.open[0];
    if (first === undefined) return;
    const records = this.open;
    this.sealCount++;
    this.list.push({
      first: first.sequence,
      last: first.sequence + records.length - 1,
      folded: false,
      end: this.openClass === 'data' ? end : 'hard',
      foldable: this.openClass === 'data',
      mark,
      sourceTimeUs: this.openTimeUs,
      recordCount: records.length,
      bodyBytes: this.openBodyBytes,
      content: { at: 'raw', records, bodyBytes: this.openBodyBytes },
      busy: undefined,
      sent: false,
      frozen: false,
      foldTried: false,
    });
    this.open = [];
    this.openBodyBytes = 0;
  }

  firstUnsent(): QueueItem | undefined {
    return this.list.find((item) => !item.sent);
  }

  /** Gives an item another content and lets the old one go. */
  setContent(item: QueueItem, content: ItemContent): void {
    const old = item.content;
    this.memoryBytes += memoryBytesOf(content) - memoryBytesOf(old);
    item.content = content;
    if (old.at === 'raw') for (const record of old.records) record.payload?.release();
    else if (old.at === 'memory') for (const payload of old.payloads) payload.release();
    else if (old.at === 'spool') for (const extent of old.extents) this.spool.free(extent);
  }

  markSent(item: QueueItem): void {
    if (item.content.at === 'gone') return;
    item.sent = true;
    this.unsentBytes -= item.bodyBytes;
    this.unsentRecordCount -= item.recordCount;
    this.inFlightBytes += item.bodyBytes;
  }

  /** The connection is gone: everything that is not durable will be sent again. */
  unsend(): void {
    for (const item of this.list) {
      if (!item.sent) continue;
      item.sent = false;
      this.unsentBytes += item.bodyBytes;
      this.unsentRecordCount += item.recordCount;
    }
    this.inFlightBytes = 0;
  }

  /** Lets everything up to a durable sequence go; returns the newest complete mark in it. */
  dropThrough(durableSequence: number): QueuedMark | undefined {
    let mark: QueuedMark | undefined;
    let count = 0;
    for (const item of this.list) {
      if (item.last > durableSequence) break;
      count++;
      if (item.mark?.complete === true) mark = item.mark;
      this.leave(item);
    }
    this.list.splice(0, count);
    return mark;
  }

  /** A folded item takes the place of a run of unsent neighbours. False when the run is not there any more. */
  replace(run: readonly QueueItem[], by: QueueItem): boolean {
    const at = this.list.indexOf(run[0] as QueueItem);
    if (at < 0 || run.some((item, index) => this.list[at + index] !== item || item.frozen)) return false;
    this.list.splice(at, run.length, by);
    for (const item of run) this.leave(item);
    this.memoryBytes += memoryBytesOf(by.content);
    this.unsentBytes += by.bodyBytes;
    this.unsentRecordCount += by.recordCount;
    return true;
  }

  /** Forgets everything; the next incarnation starts at 1. */
  clear(): void {
    this.seal('open');
    for (const item of this.list) this.leave(item);
    this.list = [];
    this.sequence = 0;
  }

  private leave(item: QueueItem): void {
    if (item.sent) this.inFlightBytes -= item.bodyBytes;
    else {
      this.unsentBytes -= item.bodyBytes;
      this.unsentRecordCount -= item.recordCount;
    }
    this.setContent(item, { at: 'gone' });
  }
}
