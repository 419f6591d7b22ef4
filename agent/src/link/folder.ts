/**
 * When and what to fold. First within one checkpoint interval; when the backlog still takes too long, or the spool fills,
 * over several, dropping the crash marks between (the interval widens). Never across a `hard` end, base data or a sync
 * mark, and never an item that was sent once.
 */
import type { Clock } from '../core/clock.js';
import type { EventSink } from '../core/events.js';
import { isPlanted } from '../core/planted.js';
import type { BlockEncoder } from './encoder.js';
import type { LinkBounds, Scheduler } from './environment.js';
import { foldRun, type FoldResult } from './fold.js';
import type { ItemContent, QueueItem } from './queue-item.js';
import type { RecordQueue } from './record-queue.js';
import type { Spool } from './spool.js';

/** Records of one fold window: bounds its memory. */
const windowRecordCountMax = 500_000;
/** After a search without a find the (long) queue is not searched again for so long. */
const searchRestMs = 20;
/** Room comes when something was sent, which takes its time. */
const roomRestMs = 250;
/** A run is tried again when it has grown by this factor: a fold reads all of its tables. */
const growthMin = 1.5;
/** Folding that leaves more than this share of the bytes is not worth it. */
const shareMax = 0.8;

export interface FolderOptions {
  readonly queue: RecordQueue;
  readonly spool: Spool;
  readonly encoder: BlockEncoder;
  readonly bounds: LinkBounds;
  readonly scheduler: Scheduler;
  readonly clock: Clock;
  readonly events: EventSink;
  readonly link: string;
  /** How long the unsent bytes take at the present rate; undefined: not connected, or not known. */
  readonly drainMs: () => number | undefined;
  readonly onChange: () => void;
}

export class Folder {
  private readonly options: FolderOptions;
  private running = false;
  private restUntilMs = -Infinity;
  /** Widening is not tried again before the run is so big: it gained nothing at a smaller size. */
  private widenFloorBytes = 0;
  /** Nor is a run that holds a record up to `last`. */
  private floor = { last: -1, bytes: 0 };
  foldCount = 0;
  /** Crash marks that were dropped. */
  widenedCount = 0;
  savedBytes = 0;

  constructor(options: FolderOptions) {
    this.options = options;
  }

  get active(): boolean {
    return this.running;
  }

  /** True when there is a backlog worth folding. */
  get wanted(): boolean {
    const { queue, spool, bounds } = this.options;
    return queue.unsentBytes > bounds.foldBytes || (spool.liveBytes > 0 && queue.unsentBytes > 0);
  }

  kick(): void {
    const { clock } = this.options;
    if (this.running || !this.wanted || clock.monotonicMs() < this.restUntilMs) return;
    const run = this.nextRun();
    if (run === undefined) {
      this.restUntilMs = clock.monotonicMs() + searchRestMs;
      return;
    }
    this.running = true;
    void this.work(run);
  }

  /** Forgets what was learnt about the old queue. */
  reset(): void {
    this.widenFloorBytes = 0;
    this.floor = { last: -1, bytes: 0 };
  }

  private nextRun(): { items: QueueItem[]; widen: boolean } | undefined {
    const within = this.findRun(false);
    if (within !== undefined) return { items: within, widen: false };
    if (!this.mustWiden()) return undefined;
    const across = this.findRun(true);
    return across === undefined ? undefined : { items: across, widen: true };
  }

  private mustWiden(): boolean {
    const { queue, spool, bounds, drainMs } = this.options;
    if (spool.capacityBytes > 0 && spool.usedBytes > spool.capacityBytes / 2) return true;
    if (spool.capacityBytes === 0 && queue.memoryBytes > bounds.bufferBytes * 0.75) return true;
    return (drainMs() ?? 0) > bounds.widenAfterMs;
  }

  private findRun(widen: boolean): QueueItem[] | undefined {
    const { items } = this.options.queue;
    let run: QueueItem[] = [];
    let recordCount = 0;
    for (const item of items) {
      const usable = !item.sent && !item.frozen && item.busy === undefined && item.foldable;
      if (!usable || recordCount + item.recordCount > windowRecordCountMax) {
        while (widen && run.at(-1)?.end === 'open') run.pop();
        if (usable && this.isWorth(run, widen)) return run;
        run = [];
        recordCount = 0;
        if (!usable) continue;
      }
      run.push(item);
      recordCount += item.recordCount;
      const hard = item.end === 'hard' && !(widen && isPlanted('fold-across-tagged'));
      if (item.end === 'open' || (item.end === 'crash' && widen)) continue;
      if (widen && !hard) continue;
      if (this.isWorth(run, widen)) return run;
      run = [];
      recordCount = 0;
    }
    while (widen && run.at(-1)?.end === 'open') run.pop();
    return this.isWorth(run, widen) && (widen || bodyBytesOf(run) > this.options.bounds.foldBytes / 2)
      ? run
      : undefined;
  }

  private isWorth(run: readonly QueueItem[], widen: boolean): boolean {
    if (run.length < 2) return false;
    if (!widen) {
      const isKnown = (run[0] as QueueItem).first <= this.floor.last && bodyBytesOf(run) < this.floor.bytes;
      return !isKnown && run.some((item) => !item.foldTried);
    }
    return run.slice(0, -1).some((item) => item.end !== 'open') && bodyBytesOf(run) >= this.widenFloorBytes;
  }

  private async work({ items, widen }: { items: QueueItem[]; widen: boolean }): Promise<void> {
    const { queue, events, link, onChange } = this.options;
    let done: () => void = () => undefined;
    const busy = new Promise<void>((resolve) => (done = resolve));
    for (const item of items) item.busy = busy;
    try {
      const result = await this.fold(items);
      if (result === 'no-room') {
        this.restUntilMs = this.options.clock.monotonicMs() + roomRestMs;
      } else if (result === 'no-gain') {
        this.gaveUp(items, widen);
      } else {
        if (widen) this.widenFloorBytes = 0;
        else this.floor = { last: (items.at(-1) as QueueItem).last, bytes: result.bodyBytes * growthMin };
        this.swap(items, result);
      }
    } catch (error) {
      this.gaveUp(items, widen);
      if (items.every((item) => item.content.at !== 'gone'))
        events.emit('fold-failed', { link, message: (error as Error).message, records: queue.unsentRecordCount });
    }
    for (const item of items) item.busy = undefined;
    this.running = false;
    done();
    onChange();
  }

  private gaveUp(items: readonly QueueItem[], widen: boolean): void {
    const floorBytes = bodyBytesOf(items) * growthMin;
    for (const item of items) item.foldTried = true;
    if (widen) this.widenFloorBytes = floorBytes;
    else this.floor = { last: (items.at(-1) as QueueItem).last, bytes: floorBytes };
  }

  private fold(items: readonly QueueItem[]): Promise<FoldResult | 'no-gain' | 'no-room'> {
    const { queue, spool, encoder, scheduler, bounds } = this.options;
    const spooled = items.some((item) => item.content.at === 'spool');
    const place = (bytes: number): 'memory' | 'spool' | undefined => {
      const roomy = queue.memoryBytes + bytes < bounds.bufferBytes / 2;
      if (roomy && !spooled) return 'memory';
      if (spool.hasRoom(bytes)) return 'spool';
      // Until the run is replaced memory holds both.
      return queue.memoryBytes + bytes < bounds.bufferBytes ? 'memory' : undefined;
    };
    return foldRun(items, {
      spool,
      encoder,
      shareMax,
      partBodyBytes: this.options.bounds.foldPartBytes,
      place,
      yieldNow: () => scheduler.yield(),
    });
  }

  private swap(items: readonly QueueItem[], result: FoldResult): void {
    const { queue, spool } = this.options;
    const last = items.at(-1) as QueueItem;
    const content: ItemContent =
      result.extents.length > 0
        ? { at: 'spool', extents: result.extents }
        : { at: 'memory', blocks: result.blocks, payloads: [] };
    const item: QueueItem = {
      ...last,
      first: (items[0] as QueueItem).first,
      folded: true,
      recordCount: result.recordCount,
      bodyBytes: result.bodyBytes,
      content,
      busy: undefined,
      foldTried: true,
    };
    const beforeBytes = bodyBytesOf(items);
    const marks = items.slice(0, -1).filter((each) => each.end !== 'open').length;
    if (!queue.replace(items, item)) {
      for (const extent of result.extents) spool.free(extent);
      return;
    }
    this.foldCount++;
    this.widenedCount += marks;
    this.savedBytes += beforeBytes - result.bodyBytes;
  }
}

function bodyBytesOf(items: readonly QueueItem[]): number {
  let bytes = 0;
  for (const item of items) bytes += item.bodyBytes;
  return bytes;
}
