/** Which checkpoints policy keeps: pure, so that the preview of a policy change and the running agent agree. */
import type { Checkpoint } from './manifest-records.js';

export interface Tier {
  /** The tier covers checkpoints up to this age. */
  readonly untilAgeMs: number;
  /** One checkpoint is kept for each interval of this length; 0 keeps all. */
  readonly everyMs: number;
}

export interface RetentionPolicy {
  /** In order of age; what is older than the last tier is forgotten. */
  readonly tiers: readonly Tier[];
  /** Application and tagged checkpoints are kept at least this long whatever the tiers say; 0: as the tiers say. */
  readonly namedAgeMs: number;
}

const hourMs = 3_600_000;

/** All for 4 hours, one a minute for 24 hours, one an hour for 30 days (design rule 11). */
export const defaultRetention: RetentionPolicy = {
  tiers: [
    { untilAgeMs: 4 * hourMs, everyMs: 0 },
    { untilAgeMs: 24 * hourMs, everyMs: 60_000 },
    { untilAgeMs: 30 * 24 * hourMs, everyMs: hourMs },
  ],
  namedAgeMs: 30 * 24 * hourMs,
};

/**
 * The ids to keep of `checkpoints` (in journal order) at `nowMs` on the source's clock. Within an interval the oldest
 * complete checkpoint stays, so that a kept one stays kept as it ages through the tier. The newest complete checkpoint
 * and every pinned one always stay. Incomplete ones follow the first tier only.
 */
export function checkpointsToKeep(
  checkpoints: readonly Checkpoint[],
  policy: RetentionPolicy,
  nowMs: number,
  pinned: ReadonlySet<string>,
): Set<string> {
  const keep = new Set<string>();
  const taken = new Set<string>();
  for (const checkpoint of checkpoints) {
    const ageMs = nowMs - checkpoint.sourceTimeMs;
    const tierIndex = policy.tiers.findIndex((tier) => ageMs <= tier.untilAgeMs);
    const tier = policy.tiers[tierIndex];
    const named = checkpoint.kind !== 'crash' && ageMs <= policy.namedAgeMs;
    if (pinned.has(checkpoint.id) || named) {
      keep.add(checkpoint.id);
      continue;
    }
    if (tier === undefined) continue;
    if (tier.everyMs === 0) {
      keep.add(checkpoint.id);
      continue;
    }
    if (!checkpoint.complete) continue;
    const slot = `${tierIndex}:${Math.floor(checkpoint.sourceTimeMs / tier.everyMs)}`;
    if (taken.has(slot)) continue;
    taken.add(slot);
    keep.add(checkpoint.id);
  }
  const newest = checkpoints.findLast((checkpoint) => checkpoint.complete);
  if (newest !== undefined) keep.add(newest.id);
  return keep;
}
