/** Which disks a group has at a moment: pure, from what the manifest says. */
import { isPlanted } from '../core/planted.js';
import { isWithin, type Vector } from '../journal/position.js';
import type { DiskRecord, GroupDisk, ManifestState } from './manifest.js';

/** The disks, with their sizes, that belong to a checkpoint of that vector; by index. */
export function disksAt(
  { diskChanges, disks }: Pick<ManifestState, 'diskChanges' | 'disks'>,
  vector: Vector,
): GroupDisk[] {
  if (isPlanted('checkpoint-with-disks-of-now')) return [...disks.values()];
  const found = new Map<number, DiskRecord>();
  for (const record of diskChanges) if (holdsAt(record, vector)) found.set(record.index, record);
  return [...found.values()].filter(({ removed }) => !removed).sort((a, b) => a.index - b.index);
}

/** Disks whose image no checkpoint can need any more: removed, and the replica is past that. */
export function disksPast({ diskChanges, promoted }: Pick<ManifestState, 'diskChanges' | 'promoted'>): number[] {
  const newest = new Map(diskChanges.map((record) => [record.index, record]));
  return [...newest.values()].flatMap((record) =>
    record.removed && (record.since === undefined || (promoted !== undefined && holdsAt(record, promoted.through)))
      ? [record.index]
      : [],
  );
}

/** Every disk whose image must be there, with its greatest size: of the group, given to come, or kept for history. */
export function disksKept(state: Pick<ManifestState, 'diskChanges' | 'promoted'>): GroupDisk[] {
  const past = new Set(disksPast(state));
  const newest = new Map<number, GroupDisk>();
  for (const record of state.diskChanges) if (!past.has(record.index)) newest.set(record.index, record);
  return [...newest.values()].sort((a, b) => a.index - b.index);
}

/** The next index that no disk of the group has or had. */
export function nextDiskIndex({ diskChanges }: Pick<ManifestState, 'diskChanges'>): number {
  return diskChanges.reduce((next, { index }) => Math.max(next, index + 1), 0);
}

function holdsAt({ since, stream, pending }: DiskRecord, vector: Vector): boolean {
  return pending !== true && (since === undefined || isWithin(vector, stream, since));
}
