/**
 * The background work of a group: thin, promote, compact, merge indexes, keep the journal under its limit, scrub the
 * replica. One round at a time; every round is bounded, so that ingest, views and operations go on beside it.
 */
import { isPlanted } from '../core/planted.js';
import type { Vector } from '../journal/position.js';
import type { GroupContext } from './context.js';
import { disksKept } from './disk-set.js';
import type { Checkpoint } from './manifest-records.js';
import { checkpointsToKeep } from './retention.js';
import { ReplicaScrub, type AskRepair } from './scrub.js';
import { retentionOf } from './settings.js';

const compactionSegmentsMax = 8;
/** When nothing else makes room: what was synced again and again lies far apart. */
const widestCompactionSegments = 64;
const mergesPerRound = 4;
/** Ended operations are remembered so long, so that a repeated id is still the same operation. */
const operationKeepMs = 90 * 24 * 3_600_000;

export interface UpkeepCounters {
  promotions: number;
  compactions: number;
  promotedBytes: number;
  compactedBytes: number;
  checkpointsThinned: number;
}

export class Upkeep {
  readonly counters: UpkeepCounters = {
    promotions: 0,
    compactions: 0,
    promotedBytes: 0,
    compactedBytes: 0,
    checkpointsThinned: 0,
  };
  readonly scrub: ReplicaScrub;
  private limited = false;

  /** `sweepDisks`: deletes images that no history needs any more. */
  constructor(
    private readonly context: GroupContext,
    private readonly sweepDisks: () => Promise<void>,
    askRepair: AskRepair,
  ) {
    this.scrub = new ReplicaScrub(context, askRepair);
  }

  /** True when the journal is at its limit and nothing more can be given up: ingest must wait. */
  get mustPause(): boolean {
    return this.limited;
  }

  async round(): Promise<void> {
    const { context } = this;
    await this.resumePromotion();
    const keep = this.keep(0);
    await this.promote(keep);
    await this.compact(keep);
    await this.enforceLimit();
    const ids = context.checkpoints().map(({ id }) => id);
    const [listed, newest] = [new Set(ids), ids.at(-1) ?? ''];
    // A verdict may be here before the mark that it is about.
    const isListed = (id: string): boolean => listed.has(id) || id > newest;
    const endedBeforeMs = context.clock.wallMs() - operationKeepMs;
    await context.manifest.compact(context.settings.manifestBytes, isListed, endedBeforeMs);
    await context.definitions.sweep(context.checkpoints());
    await this.sweepDisks();
    for (let merges = 0; merges < mergesPerRound && (await context.journal.maintain()); merges++);
    await this.scrub.round();
  }

  /** What the policy keeps, the `drop` oldest unpinned checkpoints left out. */
  private keep(drop: number): Set<string> {
    const { context } = this;
    const checkpoints = context.checkpoints();
    const pinned = context.pinned();
    const keep = checkpointsToKeep(checkpoints, retentionOf(context.settings), context.sourceNowMs(), pinned);
    const newest = checkpoints.findLast((checkpoint) => checkpoint.complete);
    for (const checkpoint of checkpoints.slice(0, drop)) {
      if (!pinned.has(checkpoint.id) && checkpoint !== newest) keep.delete(checkpoint.id);
    }
    return keep;
  }

  /** A promotion that a crash cut short is done again before anything else touches the replica. */
  async resumePromotion(): Promise<void> {
    const { promoting } = this.context.manifest.state;
    if (promoting !== undefined) await this.finishPromotion(promoting.through, promoting.checkpoint);
  }

  /** Moves the replica to the oldest checkpoint that is kept; it must be complete. True when it moved. */
  private async promote(keep: ReadonlySet<string>): Promise<boolean> {
    const { context } = this;
    const target = await context.lock.run(async () => {
      const checkpoints = context.checkpoints();
      const pinned = isPlanted('promote-past-pin') ? new Set<string>() : context.pinned();
      const stopAt = checkpoints.findIndex((checkpoint) => pinned.has(checkpoint.id) || keep.has(checkpoint.id));
      const limit = isPlanted('promote-past-pin') ? checkpoints.findLastIndex((c) => c.complete) : stopAt;
      const found = checkpoints.findLast((checkpoint, index) => checkpoint.complete && index <= limit);
      if (found === undefined || found.id === context.manifest.state.promoted?.checkpoint.id) return undefined;
      await context.manifest.append({ type: 'promoting', through: { ...found.vector }, checkpoint: found });
      return found;
    });
    if (target === undefined) return false;
    await this.finishPromotion(target.vector, target);
    return true;
  }

  private async finishPromotion(through: Vector, checkpoint: Checkpoint): Promise<void> {
    const { context } = this;
    const before = context.journal.usage.bytes;
    await context.replicas.promote(through);
    await context.manifest.append({ type: 'promoted', through: { ...through }, checkpoint });
    await context.journal.dropThrough(through);
    this.counters.promotions++;
    this.counters.promotedBytes += Math.max(0, before - context.journal.usage.bytes);
    context.events.emit('promoted', { group: context.name, checkpoint: checkpoint.id });
  }

  private async compact(keep: ReadonlySet<string>): Promise<void> {
    const { context } = this;
    const checkpoints = context.checkpoints();
    const firstTierMs = context.settings.tiers[0]?.untilAgeMs ?? 0;
    const nowMs = context.sourceNowMs();
    // A mark that is not kept goes only below the newest complete checkpoint that has left the first tier.
    const through = checkpoints.findLast(
      (checkpoint) => checkpoint.complete && keep.has(checkpoint.id) && nowMs - checkpoint.sourceTimeMs > firstTierMs,
    );
    if (through === undefined) return;
    const done = await context.journal.compact({
      keep: new Set([...keep, ...context.pinned()]),
      through: through.vector,
      segmentCountMax: compactionSegmentsMax,
      publish: (marksRemoved, publish) => this.publish(marksRemoved, publish, () => this.keep(0)),
    });
    if (done === undefined) return;
    this.counters.compactions++;
    this.counters.compactedBytes += done.bytesBefore - done.bytesAfter;
    this.counters.checkpointsThinned += done.marksRemoved.length;
    context.events.emit('compacted', {
      group: context.name,
      bytesBefore: done.bytesBefore,
      bytesAfter: done.bytesAfter,
      checkpoints: done.marksRemoved.length,
    });
  }

  /** Under the lock, so that a pin that came while the new segments were written, and what time changed, is seen. */
  private publish(
    marksRemoved: readonly string[],
    publish: () => Promise<void>,
    keepNow: () => ReadonlySet<string>,
  ): Promise<boolean> {
    return this.context.lock.run(async () => {
      const pinned = this.context.pinned();
      const keep = keepNow();
      if (marksRemoved.some((id) => pinned.has(id) || keep.has(id))) return false;
      await publish();
      return true;
    });
  }

  /**
   * Still over the limit with nothing left to give up: what lies behind the newest complete checkpoint (repeated syncs
   * over a bad link) is folded, so that the next complete one can come.
   */
  private async foldUnlisted(limitBytes: number): Promise<void> {
    const { context } = this;
    const keep = new Set(
      context
        .checkpoints()
        .filter(({ complete }) => complete)
        .map(({ id }) => id),
    );
    const compact = (segmentCountMax: number, anywhere: boolean): ReturnType<typeof context.journal.compact> =>
      context.journal.compact({
        keep: new Set([...keep, ...context.pinned()]),
        through: context.journal.durable,
        segmentCountMax,
        anywhere,
        publish: (marksRemoved, publish) => this.publish(marksRemoved, publish, () => keep),
      });
    while (context.journal.usage.bytes > limitBytes) {
      const done = (await compact(compactionSegmentsMax, false)) ?? (await compact(widestCompactionSegments, true));
      if (done === undefined) return;
      this.counters.compactions++;
      this.counters.compactedBytes += done.bytesBefore - done.bytesAfter;
    }
  }

  /** The hard limit, or less where the file system leaves no room beside the failover reserve. */
  private async limitBytes(): Promise<number> {
    const { manifest, journal, settings, storage, directory } = this.context;
    const diskBytes = disksKept(manifest.state).reduce((sum, disk) => sum + disk.sizeBytes, 0);
    const roomBytes = (await storage.freeBytes(directory)) - settings.failoverReserve * diskBytes;
    return Math.min(settings.hardLimitBytes, Math.max(0, journal.usage.bytes + roomBytes));
  }

  /** Over the limit: gives up the oldest unpinned history, an eighth of it at a time, then pauses ingest. */
  private async enforceLimit(): Promise<void> {
    const { context } = this;
    const limitBytes = await this.limitBytes();
    let moved = true;
    while (context.journal.usage.bytes > limitBytes && moved && context.checkpoints().length > 1) {
      const count = context.checkpoints().length;
      const keep = this.keep(Math.max(1, Math.ceil(count / 8)));
      // Told before it happens: from the first durable step on that history cannot be read any more.
      context.events.emit('history-dropped', {
        group: context.name,
        reason: 'journal.hardLimitBytes',
        kept: keep.size,
      });
      moved = await this.promote(keep);
    }
    await this.foldUnlisted(limitBytes);
    const limited = context.journal.usage.bytes > limitBytes;
    if (limited !== this.limited)
      context.events.emit(limited ? 'journal-full' : 'journal-has-room', {
        group: context.name,
        usedBytes: context.journal.usage.bytes,
        limitBytes,
      });
    this.limited = limited;
  }
}
