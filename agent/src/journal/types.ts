/** What the journal offers to the replica, the views and the group. */
import type { Block } from '../block/block.js';
import type { CheckpointMark, SyncMark } from '../block/record.js';
import type { Vector } from './position.js';

/** One run of a disk at a cut. Pieces are in offset order, do not overlap and cover what was asked. */
export interface Piece {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** `data`: read it with `cut.read`; `zero`: reads as zeros; `base`: the journal says nothing, the replica holds it. */
  readonly source: 'data' | 'zero' | 'base';
  /** Opaque, for `cut.read`; only of `data`. */
  readonly locator?: unknown;
}

/**
 * The journal up to a cut: what must be laid over the replica to see the disks at that moment. Stays readable until
 * `release`, whatever promotion and compaction do meanwhile: they delete no segment that a cut still needs.
 */
export interface JournalCut {
  readonly vector: Vector;
  /** Pieces of the range. Consults a bounded number of indexes and loads none whole. */
  lookup(disk: number, offsetBytes: number, lengthBytes: number): Promise<Piece[]>;
  /** Fills `target` with the piece's bytes from `skipBytes` on; checks checksums, throws `journal-corrupt`. */
  read(piece: Piece, skipBytes: number, target: Uint8Array): Promise<void>;
  /** All `data` and `zero` pieces of a disk in offset order, streamed. */
  pieces(disk: number): AsyncIterable<Piece>;
  release(): void;
}

/** A mark found in the journal, with its place. */
export interface JournalMark {
  readonly mark: CheckpointMark;
  readonly stream: number;
  readonly incarnation: number;
  readonly epoch: number;
  readonly sequence: number;
}

export interface JournalSyncMark {
  readonly mark: SyncMark;
  readonly begin: boolean;
  readonly stream: number;
  readonly incarnation: number;
  readonly sequence: number;
}

export interface JournalUsage {
  readonly bytes: number;
  readonly segmentCount: number;
  readonly recordCount: number;
  readonly checkpointCount: number;
}

/** One writer; see SEGMENT.md for the format. The group has checked epoch, incarnation and contiguity before `append`. */
export interface Journal {
  /** Newest appended / durable position of each stream. After open both are what recovery found. */
  readonly received: Vector;
  readonly durable: Vector;
  readonly usage: JournalUsage;
  /** Bytes appended and not yet durable; the group stops reading its connections over a bound. */
  readonly pendingBytes: number;
  /** Set after a failure that only opening the journal again can mend (its manifest took no record). */
  readonly failure: Error | undefined;
  /**
   * Queues a block (kept in memory until written). A folded range counts only when its last part is durable.
   * `bodyElided` stores only the fact that [first…last] was received (base data that went to the replica). `owned`: the
   * journal gives the block's memory back when it is durable.
   */
  append(block: Block, options?: { bodyElided?: boolean; owned?: boolean }): void;
  /** The connection of the stream is gone: parts of an unfinished folded range are void, the segment may be sealed. */
  abandon(stream: number): void;
  /** Called whenever `durable` moved, after the fdatasync. */
  onDurable(handler: () => void): void;
  /**
   * A write or fdatasync failed: everything above `durable` is given up, `received` falls back to `durable`, the next
   * append goes to a new segment. The group cuts its streams so that the sources resend.
   */
  onPoisoned(handler: (error: Error) => void): void;
  /** Waits until all that was appended before the call is durable. */
  flush(): Promise<void>;
  /** Checkpoint marks and sync marks that are durable, in journal order. */
  marks(): readonly JournalMark[];
  syncMarks(): readonly JournalSyncMark[];
  cut(vector: Vector): Promise<JournalCut>;
  /**
   * Forgets everything at or before the cut (the caller has promoted it durably): such segments are dropped from the
   * list by one durable manifest record and deleted when no cut needs them.
   */
  dropThrough(vector: Vector): Promise<void>;
  /** Forgets the whole content (a group without any complete checkpoint, at a new incarnation). */
  dropAll(): Promise<void>;
  /**
   * Folds the history between kept marks: every mark that `keep` does not name, up to `through`, disappears with the
   * bytes only it needed. Sync ranges stay atomic. Bounded work a call (`segmentCountMax` sealed segments); returns
   * what was done, undefined when nothing was worth it.
   */
  compact(request: {
    keep: ReadonlySet<string>;
    through: Vector;
    segmentCountMax: number;
    /** Also where no mark disappears: overwritten bytes alone are reason enough. */
    anywhere?: boolean;
    /** Runs `publish` when the marks may still go and resolves with true; false: they may not, nothing was changed. */
    publish: (marksRemoved: readonly string[], publish: () => Promise<void>) => Promise<boolean>;
  }): Promise<{ bytesBefore: number; bytesAfter: number; marksRemoved: string[] } | undefined>;
  /** Merges index runs and does other upkeep; bounded work a call; true when there is more. */
  maintain(): Promise<boolean>;
  /** Reads every byte and checks every checksum; progress by `onProgress(doneBytes, totalBytes)`. */
  verify(onProgress: (doneBytes: number, totalBytes: number) => void, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}
