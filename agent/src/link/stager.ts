/** Moves items from raw to encoded, and from memory to the spool; one hand at a time on an item. */
import type { Clock } from '../core/clock.js';
import type { EventSink } from '../core/events.js';
import type { BlockEncoder } from './encoder.js';
import type { LinkBounds, Scheduler } from './environment.js';
import type { EncodedBlock } from './encoded-block.js';
import type { QueueItem } from './queue-item.js';
import type { RecordQueue } from './record-queue.js';
import type { Spool, SpoolExtent } from './spool.js';

/** After a spool error nothing is spilled for so long. */
const spoolRestMs = 5000;
/** Share of the spool that spilling leaves free, for folding to write its results to. */
const foldReserve = 0.2;

export interface StagerOptions {
  readonly queue: RecordQueue;
  readonly spool: Spool;
  readonly encoder: BlockEncoder;
  readonly bounds: LinkBounds;
  readonly scheduler: Scheduler;
  readonly clock: Clock;
  readonly events: EventSink;
  readonly link: string;
  readonly onChange: () => void;
}

export class Stager {
  private readonly options: StagerOptions;
  private spilling = false;
  private restUntilMs = -Infinity;
  /** Bytes that memory must fall to; the agent's pressure lowers it for a while. */
  private goalBytes: number;
  spoolErrorCount = 0;
  spilledBytes = 0;

  constructor(options: StagerOptions) {
    this.options = options;
    this.goalBytes = options.bounds.bufferBytes;
  }

  /** The blocks of a raw or memory item; encodes a raw one. Undefined when the item is gone. */
  async encoded(item: QueueItem): Promise<readonly EncodedBlock[] | undefined> {
    while (item.busy !== undefined) await item.busy;
    if (item.content.at === 'memory') return item.content.blocks;
    if (item.content.at !== 'raw') return undefined;
    await this.exclusively(item, () => this.encode(item));
    return (item.content as QueueItem['content']).at === 'memory' ? this.encoded(item) : undefined;
  }

  /** Spills when memory is over its bound. `pressure`: the agent's slabs run out, make room at once. */
  kick(pressure = false): void {
    const { queue, bounds } = this.options;
    if (pressure) this.goalBytes = Math.min(this.goalBytes, queue.memoryBytes / 2);
    else if (!this.spilling) this.goalBytes = bounds.bufferBytes;
    if (this.spilling || !this.over() || !this.usable()) return;
    this.goalBytes = Math.min(this.goalBytes, bounds.bufferBytes * 0.75);
    this.spilling = true;
    void this.spill();
  }

  private over(): boolean {
    return this.options.queue.memoryBytes > this.goalBytes;
  }

  private usable(): boolean {
    const { spool, clock } = this.options;
    return spool.capacityBytes > 0 && clock.monotonicMs() >= this.restUntilMs;
  }

  private async spill(): Promise<void> {
    const { queue, spool, scheduler, onChange } = this.options;
    while (this.over() && this.usable()) {
      const item = queue.items.find(
        ({ sent, busy, content }) => !sent && busy === undefined && (content.at === 'raw' || content.at === 'memory'),
      );
      if (item === undefined) break;
      const bytes = item.bodyBytes + item.recordCount * 24 + 4096;
      if (!spool.hasRoom(bytes + spool.capacityBytes * foldReserve)) break;
      await this.exclusively(item, () => this.toSpool(item));
      onChange();
      await scheduler.yield();
    }
    this.spilling = false;
  }

  private async exclusively(item: QueueItem, section: () => Promise<void>): Promise<void> {
    let done: () => void = () => undefined;
    item.busy = new Promise<void>((resolve) => (done = resolve));
    try {
      await section();
    } finally {
      item.busy = undefined;
      done();
    }
  }

  private async encode(item: QueueItem): Promise<void> {
    const { queue, encoder } = this.options;
    if (item.content.at !== 'raw') return;
    const { records, bodyBytes } = item.content;
    const { block, copied } = await encoder.encode(records, bodyBytes, {
      firstSequence: item.first,
      lastSequence: item.last,
      folded: false,
      part: 0,
      lastPart: false,
      sourceTimeUs: item.sourceTimeUs,
    });
    if ((item.content as QueueItem['content']).at !== 'raw') return;
    const payloads = copied ? [] : records.flatMap(({ payload }) => payload ?? []);
    for (const payload of payloads) payload.retain();
    queue.setContent(item, { at: 'memory', blocks: [block], payloads });
  }

  private async toSpool(item: QueueItem): Promise<void> {
    const { queue, spool, clock, events, link } = this.options;
    await this.encode(item);
    if (item.content.at !== 'memory') return;
    const extents: SpoolExtent[] = [];
    try {
      for (const block of item.content.blocks) extents.push(await spool.append(block));
    } catch (error) {
      for (const extent of extents) spool.free(extent);
      this.spoolErrorCount++;
      this.restUntilMs = clock.monotonicMs() + spoolRestMs;
      events.emit('spool-failed', { link, message: (error as Error).message });
      return;
    }
    if ((item.content as QueueItem['content']).at !== 'memory') {
      for (const extent of extents) spool.free(extent);
      return;
    }
    this.spilledBytes += item.bodyBytes;
    queue.setContent(item, { at: 'spool', extents });
  }
}
