/**
 * Sends the queue over one session, in order: waits for room (window of bytes that are not durable, socket, throttle),
 * encodes or reads back, sends. An item that was begun is sent whole, so that a folded range larger than the window
 * cannot wait for itself.
 */
import { sleep, type Clock } from '../core/clock.js';
import { BurstWait } from './burst-wait.js';
import type { BlockEncoder } from './encoder.js';
import type { LinkBounds, Scheduler } from './environment.js';
import { bytesOfBlock, type EncodedBlock } from './encoded-block.js';
import { type QueueItem } from './queue-item.js';
import type { RecordQueue } from './record-queue.js';
import type { Session } from './session.js';
import type { Signal } from './signal.js';
import type { Spool } from './spool.js';
import type { Stager } from './stager.js';
import type { Throttle } from './throttle.js';

/** Below so many open bytes a chunk waits `lingerMs` for more. */
const lingerBytes = 64 * 1024;
/** Items that are encoded ahead (compression runs on other threads). */
const aheadCount = 3;

export interface SenderOptions {
  readonly queue: RecordQueue;
  readonly spool: Spool;
  readonly stager: Stager;
  readonly encoder: BlockEncoder;
  readonly bounds: LinkBounds;
  readonly clock: Clock;
  readonly scheduler: Scheduler;
  readonly throttle: Throttle | undefined;
  readonly signal: Signal;
  /** The target asked for a pause. */
  readonly isPaused: () => boolean;
  readonly onSent: (bytes: number) => void;
}

/** Returns when the session has ended. Throws when a spooled block cannot be read back. */
export async function sendQueue(session: Session, options: SenderOptions): Promise<void> {
  const { queue, bounds, clock, signal } = options;
  const burst = new BurstWait(queue, bounds, clock);
  void session.ended.then(() => signal.wake());
  while (session.end === undefined) {
    const item = queue.firstUnsent();
    const waitMs = item === undefined ? 0 : burst.waitMs();
    if (item === undefined) {
      burst.rest();
      if (queue.openRecordCount === 0) await signal.wait();
      else await closeOpenChunk(session, options);
    } else if (waitMs > 0) {
      await sleep(clock, waitMs, session.signal).catch(() => undefined);
    } else if (options.isPaused() || queue.inFlightBytes >= bounds.inFlightBytes || !session.hasRoom) {
      await signal.wait();
    } else {
      await sendItem(session, item, options);
      await options.scheduler.yield();
    }
  }
}

async function closeOpenChunk(session: Session, { queue, bounds, clock }: SenderOptions): Promise<void> {
  const { sequence } = queue;
  if (queue.openBytes < lingerBytes && bounds.lingerMs > 0) {
    await sleep(clock, bounds.lingerMs, session.signal).catch(() => undefined);
    if (queue.firstUnsent() !== undefined || session.end !== undefined) return;
  }
  if (queue.sequence >= sequence) queue.seal('open');
}

async function sendItem(session: Session, item: QueueItem, options: SenderOptions): Promise<void> {
  const { queue, stager } = options;
  while (item.busy !== undefined) await item.busy;
  if (queue.firstUnsent() !== item) return;
  if (item.content.at === 'spool') await sendSpooled(session, item, options);
  else {
    encodeAhead(item, options);
    const blocks = await stager.encoded(item);
    if (blocks === undefined || queue.firstUnsent() !== item) return;
    for (const block of blocks) if (!(await sendBlock(session, item, block, options))) return;
  }
  if (session.end !== undefined || item.content.at === 'gone') return;
  item.frozen = true;
  queue.markSent(item);
}

function encodeAhead(item: QueueItem, { queue, stager }: SenderOptions): void {
  const from = queue.items.indexOf(item) + 1;
  for (const next of queue.items.slice(from, from + aheadCount)) {
    if (next.content.at === 'raw' && next.busy === undefined) void stager.encoded(next);
  }
}

async function sendSpooled(session: Session, item: QueueItem, options: SenderOptions): Promise<void> {
  const { content } = item;
  if (content.at !== 'spool') return;
  let done: () => void = () => undefined;
  item.busy = new Promise<void>((resolve) => (done = resolve));
  try {
    for (const extent of content.extents) {
      if ((item.content as QueueItem['content']).at === 'gone') return;
      const { bytes } = await options.spool.read(extent);
      const block = [bytes.subarray(0, 80), bytes.subarray(80, extent.tableBytes), bytes.subarray(extent.tableBytes)];
      if (!(await sendBlock(session, item, block, options))) return;
    }
  } finally {
    item.busy = undefined;
    done();
  }
}

/** False: the session ended or the item went away; nothing was sent. */
async function sendBlock(
  session: Session,
  item: QueueItem,
  block: EncodedBlock,
  options: SenderOptions,
): Promise<boolean> {
  const { throttle, signal, encoder } = options;
  try {
    await throttle?.take(bytesOfBlock(block), session.signal);
  } catch {
    return false;
  }
  while (!session.hasRoom && session.end === undefined) await signal.wait();
  if (session.end !== undefined || item.content.at === 'gone') return false;
  // The last part may be at the target from now on, whatever becomes of the connection.
  item.frozen = true;
  session.sendBlock(encoder.restamp(block));
  options.onSent(bytesOfBlock(block));
  return true;
}
