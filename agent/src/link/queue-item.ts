/**
 * What a link keeps until the target called it durable: items in sequence order, without a gap.
 *
 * raw (records with the guest's payloads) → memory (encoded blocks) → sent, or raw/memory → spool → sent. A folded item
 * replaces a run of unsent ones. An item that was sent once keeps its bounds for ever (`frozen`): the target may hold
 * it although its acknowledgement was lost.
 */
import type { RecordKind } from '../block/record.js';
import type { Payload } from '../nbd/payload.js';
import type { EncodedBlock } from './encoded-block.js';
import type { SpoolExtent } from './spool.js';

/** A record on its way; `payload` is set when `bytes` lie in a counted slab. */
export interface RawRecord {
  readonly kind: RecordKind;
  /** Index at the target. */
  readonly disk: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly bytes: Uint8Array | undefined;
  readonly payload: Payload | undefined;
  readonly sequence: number;
}

export type ItemContent =
  | { readonly at: 'raw'; readonly records: readonly RawRecord[]; readonly bodyBytes: number }
  /** `payloads`: what the blocks' bytes lie in, when they were not copied; released with the item. */
  | { readonly at: 'memory'; readonly blocks: readonly EncodedBlock[]; readonly payloads: readonly Payload[] }
  | { readonly at: 'spool'; readonly extents: readonly SpoolExtent[] }
  | { readonly at: 'gone' };

/** How an item ends: `crash`: with a mark that widening may drop; `hard`: with one that nothing folds across. */
export type ItemEnd = 'open' | 'crash' | 'hard';

export interface QueuedMark {
  readonly id: string;
  readonly sourceTimeMs: number;
  readonly complete: boolean;
}

export interface QueueItem {
  readonly first: number;
  readonly last: number;
  readonly folded: boolean;
  readonly end: ItemEnd;
  /** False: base data or a sync mark, which stay as they are and part the runs. */
  readonly foldable: boolean;
  /** The mark it ends with. */
  readonly mark: QueuedMark | undefined;
  readonly sourceTimeUs: number;
  readonly recordCount: number;
  /** Payload bytes before compression. */
  readonly bodyBytes: number;
  content: ItemContent;
  /** Being encoded, spooled or folded: resolves when that is over. */
  busy: Promise<void> | undefined;
  /** Sent on the present connection. */
  sent: boolean;
  frozen: boolean;
  /** Folding it with its neighbours was tried and gained too little. */
  foldTried: boolean;
}

/** Memory that JS objects of one record take, about. */
export const recordOverheadBytes = 96;

export function memoryBytesOf(content: ItemContent): number {
  if (content.at === 'raw') return content.bodyBytes + content.records.length * recordOverheadBytes;
  if (content.at !== 'memory') return 0;
  let bytes = 0;
  for (const block of content.blocks) for (const piece of block) bytes += piece.length;
  return bytes;
}
