/**
 * Switches for planted bugs: known mistakes that the simulation must catch, or its silence proves nothing. The agent's
 * bundle defines `__TIDEMARK_PLANTED__` as false, so there `isPlanted` is constant false and nothing can be planted.
 */
export const plantedBugs = [
  'ack-before-fdatasync',
  'skip-directory-fsync',
  'promote-past-pin',
  'promote-half-range',
  'delete-before-compaction-switch',
  'bitmap-begun-late',
  'stale-sync-read-wins',
  'reused-sequence',
  'stale-epoch-accepted',
  'stale-incarnation-accepted',
  'scratch-map-before-data',
  'rollback-after-committing',
  'torn-tail-kept',
  'fold-across-tagged',
  'fold-partial-valid',
  'barrier-release-ignored',
  'promotion-watermark-before-fdatasync',
  'checkpoint-while-syncing',
  'failed-fsync-ignored',
  'sync-range-end-missing',
  'checkpoint-with-disks-of-now',
  'checkpoint-while-growing',
  'growth-not-synced',
  'disk-change-after-journal',
  'damage-not-repaired',
] as const;
export type PlantedBug = (typeof plantedBugs)[number];

declare const __TIDEMARK_PLANTED__: boolean | undefined;

const plantable = typeof __TIDEMARK_PLANTED__ === 'undefined' ? true : __TIDEMARK_PLANTED__;
const active = new Set<PlantedBug>();

/** True when the bug was planted in this test process; always false in the agent's bundle. */
export function isPlanted(bug: PlantedBug): boolean {
  return plantable && active.has(bug);
}

/** Plants one bug, for the whole process, until {@link uprootAll}. Throws in the agent's bundle. */
export function plant(bug: PlantedBug): void {
  if (!plantable) throw new Error('bugs cannot be planted in this build');
  active.add(bug);
}

/** Removes every planted bug. */
export function uprootAll(): void {
  active.clear();
}
