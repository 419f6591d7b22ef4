/** Which merged runs there are, which of them cover a list of segments, and which to merge next. */
import type { JournalContext } from './context.js';
import type { FileReferences } from './file-references.js';
import { loadMergedRun, writeMergedRun, type MergedRun } from './merged-run.js';
import { RunDamaged } from './run.js';
import { rebuildRun, type Segment } from './segment.js';

/** Runs that are merged into one of the next level. */
export const mergeWidth = 8;
/** With more runs than this the smallest neighbours are merged whatever their levels. */
export const unitCountMax = 48;

/** One run of a cover: a merged one or a single segment. */
export interface Unit {
  readonly segments: readonly Segment[];
  readonly merged: MergedRun | undefined;
}

export class RunLevels {
  #merged: MergedRun[] = [];

  constructor(
    private readonly context: JournalContext,
    private readonly references: FileReferences,
  ) {}

  /** Loads what lies in the index directory; what is not whole or does not fit the list is removed. */
  async open(segments: readonly Segment[]): Promise<void> {
    const { storage, indexDirectory } = this.context;
    await storage.makeDirectory(indexDirectory);
    for (const name of await storage.list(indexDirectory)) {
      const path = `${indexDirectory}/${name}`;
      const merged = name.endsWith('.run') ? await loadMergedRun(this.context, path) : undefined;
      if (merged !== undefined) this.#merged.push(merged);
      else this.references.drop(path);
    }
    this.discard(segments);
  }

  /** Discards the runs of which a segment left the list. */
  discard(segments: readonly Segment[]): void {
    const places = new Map(segments.map((segment, index) => [segment.id, index]));
    this.#merged = this.#merged.filter((merged) => {
      const from = places.get(merged.ids[0] as number);
      const fits = from !== undefined && merged.ids.every((id, index) => segments[from + index]?.id === id);
      if (!fits) this.references.drop(merged.path);
      return fits;
    });
  }

  /** Covers the segments (in order) with the longest merged runs; oldest first. */
  cover(segments: readonly Segment[]): Unit[] {
    const byFirst = new Map<number, MergedRun[]>();
    for (const merged of this.#merged) {
      const first = merged.ids[0] as number;
      byFirst.set(
        first,
        [...(byFirst.get(first) ?? []), merged].sort((a, b) => b.ids.length - a.ids.length),
      );
    }
    const units: Unit[] = [];
    for (let at = 0; at < segments.length;) {
      const segment = segments[at] as Segment;
      const merged = byFirst
        .get(segment.id)
        ?.find((each) => each.ids.every((id, index) => segments[at + index]?.id === id));
      const count = merged?.ids.length ?? 1;
      units.push({ segments: segments.slice(at, at + count), merged });
      at += count;
    }
    return units;
  }

  /** Merges one group of neighbours when there is one; true when there may be more. */
  async mergeOnce(segments: readonly Segment[]): Promise<boolean> {
    const units = this.cover(segments);
    const from = chooseMerge(units);
    if (from === undefined) return false;
    const chosen = units.slice(from, from + mergeWidth);
    const level = 1 + Math.max(...chosen.map(levelOf));
    const covered = chosen.flatMap((unit) => unit.segments);
    const paths = [...covered.map((segment) => segment.path), ...chosen.flatMap((unit) => unit.merged?.path ?? [])];
    for (const path of paths) this.references.take(path);
    try {
      const ids = covered.map((segment) => segment.id);
      const runs = chosen.map((unit) => unit.merged?.run ?? (unit.segments[0] as Segment).run);
      const merged = await writeMergedRun(this.context, level, ids, runs);
      if (merged !== undefined) this.#merged.push(merged);
    } catch (error) {
      if (!(error instanceof RunDamaged)) throw error;
      for (const unit of chosen) if (runOf(unit) === error.run) await this.repair(unit);
    } finally {
      for (const path of paths) this.references.release(path);
    }
    return true;
  }

  /** A page of the unit's run is damaged: gives what to read instead. */
  async repair(unit: Unit): Promise<Unit[]> {
    if (unit.merged === undefined) {
      await rebuildRun(this.context, unit.segments[0] as Segment);
      return [unit];
    }
    this.#merged = this.#merged.filter((merged) => merged !== unit.merged);
    this.references.drop(unit.merged.path);
    return unit.segments.map((segment) => ({ segments: [segment], merged: undefined }));
  }
}

export function runOf(unit: Unit): Segment['run'] {
  return unit.merged?.run ?? (unit.segments[0] as Segment).run;
}

function levelOf(unit: Unit): number {
  return unit.merged?.level ?? 0;
}

/** Index of the first of {@link mergeWidth} units to merge. */
function chooseMerge(units: readonly Unit[]): number | undefined {
  let equal = 0;
  for (const [index, unit] of units.entries()) {
    equal = index > 0 && levelOf(unit) === levelOf(units[index - 1] as Unit) ? equal + 1 : 1;
    if (equal === mergeWidth) return index - mergeWidth + 1;
  }
  if (units.length <= unitCountMax) return undefined;
  let best: number | undefined;
  let bestCount = Infinity;
  for (let from = 0; from + mergeWidth <= units.length; from++) {
    const count = units.slice(from, from + mergeWidth).reduce((sum, unit) => sum + runOf(unit).extentCount, 0);
    if (count < bestCount) [best, bestCount] = [from, count];
  }
  return best;
}
