/**
 * The writer loop of a journal: gathers appended blocks, writes and fdatasyncs them as one batch, then moves `durable`.
 * The next batch gathers meanwhile. One instance a journal; nothing else writes its active segment.
 */
import type { Block } from '../block/block.js';
import { invariant } from '../core/invariant.js';
import { isPlanted } from '../core/planted.js';
import { releaseBytes } from '../core/release-bytes.js';
import type { ManifestLog } from '../target/manifest-records.js';
import type { JournalContext } from './context.js';
import { comparePositions, type Position } from './position.js';
import { whyNotNext } from './segment-content.js';
import { segmentBytesMax } from './segment-format.js';
import { SegmentWriter, type PlacedEntry } from './segment-writer.js';
import { loadSegment, type Segment } from './segment.js';

/** Bytes of one batch, so that an fdatasync stays short. */
const batchBytesMax = 16 * 1024 * 1024;
/** A segment that grows beyond this many times its size because of an open folded range is given up. */
const rangeFactorMax = 64;

interface Item {
  /** Undefined: the open range of `stream` is given up. */
  readonly block: Block | undefined;
  readonly stream: number;
  readonly elided: boolean;
  readonly owned: boolean;
}

interface Waiter {
  readonly appended: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export interface WriterEvents {
  durable(): void;
  poisoned(error: Error): void;
  sealed(segment: Segment): void;
}

export class JournalWriter {
  readonly received: Record<number, Position>;
  readonly durable: Record<number, Position>;
  active: SegmentWriter | undefined;
  /** The segment that is being sealed: not yet in the list, still to be read. */
  sealing: SegmentWriter | undefined;
  pendingBytes = 0;
  nextId: number;
  #queue: Item[] = [];
  #waiters: Waiter[] = [];
  #appendedCount = 0;
  #doneCount = 0;
  #running: Promise<void> | undefined;
  #fatal: Error | undefined;

  constructor(
    private readonly context: JournalContext,
    private readonly manifest: ManifestLog,
    last: Readonly<Record<number, Position>>,
    nextId: number,
    private readonly events: WriterEvents,
  ) {
    this.received = { ...last };
    this.durable = { ...last };
    this.nextId = nextId;
  }

  /** Set when nothing can be written any more: the journal must be opened again. */
  get failure(): Error | undefined {
    return this.#fatal;
  }

  /** Segments that are not in the list yet, oldest first. */
  get live(): SegmentWriter[] {
    return [this.sealing, this.active].filter((segment) => segment !== undefined);
  }

  append(block: Block, { bodyElided = false, owned = false } = {}): void {
    if (this.#fatal !== undefined) throw this.#fatal;
    const { header } = block;
    if (!header.folded || header.part === 0) {
      const why = whyNotNext(header, this.received[header.stream]);
      invariant(why === undefined, `journal: ${why}`);
    }
    if (!header.folded || header.lastPart) {
      this.received[header.stream] = { incarnation: header.incarnation, sequence: header.lastSequence };
    }
    this.pendingBytes += block.bytes.length;
    this.#push({ block, stream: header.stream, elided: bodyElided, owned });
  }

  abandon(stream: number): void {
    if (this.#fatal === undefined) this.#push({ block: undefined, stream, elided: false, owned: false });
  }

  flush(): Promise<void> {
    if (this.#fatal !== undefined) return Promise.reject(this.#fatal);
    if (this.#doneCount === this.#appendedCount) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiters.push({ appended: this.#appendedCount, resolve, reject }));
  }

  /** Waits until the loop is idle and does `section` before it goes on. */
  async exclusively<T>(section: () => Promise<T>): Promise<T> {
    while (this.#running !== undefined) await this.#running;
    if (this.#fatal !== undefined) throw this.#fatal;
    let result: T | undefined;
    this.#running = section()
      .then((value) => {
        result = value;
      })
      .finally(() => this.#stopped());
    await this.#running;
    return result as T;
  }

  /** Ends the segment: footer, manifest, and the next append begins another. */
  async seal(): Promise<void> {
    const segment = this.active;
    if (segment === undefined) return;
    this.active = undefined;
    this.sealing = segment;
    segment.content.abandonAll();
    if (segment.content.heads.length === 0) {
      this.sealing = undefined;
      await segment.file.close().catch(() => undefined);
      await this.#unlist(segment);
      return;
    }
    // A footer is an index: without it the segment is scanned when it is opened.
    await segment.writeFooter().catch(() => undefined);
    await this.#publish(segment);
  }

  /** Stops after what is queued. The segment stays open; a watermark witnesses the last batch. */
  async close(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
    const segment = this.active;
    this.#fatal ??= new Error('the journal is closed');
    if (segment === undefined) return;
    await segment.writeWatermark().catch(() => undefined);
    await segment.file.close().catch(() => undefined);
  }

  #push(item: Item): void {
    this.#appendedCount++;
    this.#queue.push(item);
    if (this.#running === undefined) this.#start();
  }

  #start(): void {
    this.#running = this.#run().finally(() => this.#stopped());
  }

  /** What was appended between the loop's last look and now must not wait for the next append. */
  #stopped(): void {
    this.#running = undefined;
    if (this.#queue.length > 0 && this.#fatal === undefined) this.#start();
  }

  async #run(): Promise<void> {
    // Gathers what the caller appends in the same turn.
    await Promise.resolve();
    while (this.#queue.length > 0 && this.#fatal === undefined) {
      let writing: SegmentWriter | undefined;
      try {
        writing = this.active ?? (await this.#open());
        if (this.#fatal !== undefined) return;
        await this.#writeBatch(writing);
      } catch (error) {
        await this.#poison(error as Error);
        continue;
      }
      if (this.#isFull(writing)) await this.seal();
    }
  }

  async #writeBatch(segment: SegmentWriter): Promise<void> {
    const items: Item[] = [];
    const placed: (PlacedEntry | undefined)[] = [];
    const limitBytes = Math.min(
      segment.endBytes + batchBytesMax,
      Math.max(this.context.segmentBytes, segment.endBytes + 1),
    );
    while (this.#queue.length > 0 && (items.length === 0 || segment.endBytes < limitBytes)) {
      const item = this.#queue.shift() as Item;
      items.push(item);
      placed.push(item.block && segment.place(item.block, item.elided));
    }
    const entries = placed.filter((entry) => entry !== undefined);
    if (entries.length > 0) {
      await segment.write(entries);
      if (isPlanted('ack-before-fdatasync')) {
        const early = this.#moveDurable(items);
        if (early) this.events.durable();
      }
      await segment.datasync();
    }
    // From here on nothing can fail: the batch is durable.
    for (const [index, item] of items.entries()) {
      const entry = placed[index];
      if (entry === undefined) segment.content.abandon(item.stream);
      else {
        const why = segment.content.add(entry.head, entry.body);
        invariant(why === undefined, `journal: ${why}`);
      }
    }
    this.pendingBytes -= items.reduce((sum, item) => sum + (item.block?.bytes.length ?? 0), 0);
    this.#doneCount += items.length;
    const moved = this.#moveDurable(items);
    for (const [index, { block, owned }] of items.entries()) {
      // Marks of an unfinished folded range are read when its last part is here.
      if (owned && block !== undefined && placed[index]?.body === undefined) releaseBytes(block.bytes);
    }
    this.#waiters = this.#waiters.filter((waiter) => {
      if (waiter.appended > this.#doneCount) return true;
      waiter.resolve();
      return false;
    });
    if (moved) this.events.durable();
  }

  #moveDurable(items: readonly Item[]): boolean {
    let moved = false;
    for (const { block } of items) {
      if (block === undefined) continue;
      const { stream, incarnation, lastSequence, folded, lastPart } = block.header;
      if (folded && !lastPart && !isPlanted('fold-partial-valid')) continue;
      const position = { incarnation, sequence: lastSequence };
      if (comparePositions(this.durable[stream] ?? { incarnation: 0, sequence: 0 }, position) >= 0) continue;
      this.durable[stream] = position;
      moved = true;
    }
    return moved;
  }

  #isFull(segment: SegmentWriter): boolean {
    const { segmentBytes, segmentRecords } = this.context;
    const full = segment.endBytes >= segmentBytes || segment.content.recordCount >= segmentRecords;
    if (!segment.content.rangeOpen) return full;
    const factor = Math.max(segmentBytes, 1024 * 1024) * rangeFactorMax;
    return segment.endBytes >= Math.min(factor, segmentBytesMax - 2 * batchBytesMax) && this.#giveUpRange();
  }

  /** A range too long for a segment: as after a failed write, the source begins anew. */
  #giveUpRange(): true {
    this.#fallBack(new Error('a folded range is too long for a journal segment'));
    return true;
  }

  async #open(): Promise<SegmentWriter> {
    const segment = await SegmentWriter.create(this.context, this.nextId++, { ...this.durable });
    await this.#record({ type: 'segment-open', id: segment.id });
    this.active = segment;
    return segment;
  }

  /** Everything above `durable` is given up; the segment is sealed at its durable end. */
  async #poison(error: Error): Promise<void> {
    const segment = this.active;
    this.active = undefined;
    this.sealing = segment;
    this.#fallBack(error);
    if (segment === undefined || this.#fatal !== undefined) return;
    await segment.file.close().catch(() => undefined);
    segment.content.abandonAll();
    if (segment.content.heads.length > 0) await this.#publish(segment);
    else {
      this.sealing = undefined;
      await this.#unlist(segment);
    }
  }

  /** A segment without anything durable leaves the list; its file only once the manifest has said so. */
  async #unlist(segment: SegmentWriter): Promise<void> {
    await this.#record({ type: 'segments-replaced', removed: [segment.id], added: [] });
    if (this.#fatal === undefined) await this.context.storage.remove(segment.path).catch(() => undefined);
  }

  #fallBack(error: Error): void {
    this.#queue = [];
    this.pendingBytes = 0;
    this.#doneCount = this.#appendedCount;
    for (const stream of Object.keys(this.received).map(Number)) {
      const durable = this.durable[stream];
      if (durable === undefined) delete this.received[stream];
      else this.received[stream] = durable;
    }
    const waiters = this.#waiters.splice(0);
    for (const waiter of waiters) waiter.reject(error);
    this.events.poisoned(error);
  }

  async #publish(segment: SegmentWriter): Promise<void> {
    const entry = segment.entry();
    await this.#record({ type: 'segment-sealed', segment: entry });
    if (this.#fatal !== undefined) return;
    await segment.file.close().catch(() => undefined);
    try {
      const sealed = await loadSegment(this.context, entry);
      this.sealing = undefined;
      this.events.sealed(sealed);
    } catch (error) {
      this.#die(error as Error);
    }
  }

  /** A manifest that takes no more records ends the journal: a restart recovers. */
  async #record(record: Parameters<ManifestLog['append']>[0]): Promise<void> {
    try {
      await this.manifest.append(record);
    } catch (error) {
      this.#die(error as Error);
    }
  }

  #die(error: Error): void {
    if (this.#fatal !== undefined) return;
    this.#fatal = error;
    this.#fallBack(error);
  }
}
