/** The sealed segments in journal order, what is read from them, and how they leave. */
import type { SegmentEntry } from '../target/manifest-records.js';
import type { BodySource } from './body-reader.js';
import { BoundedCache } from './bounded-cache.js';
import type { JournalContext } from './context.js';
import type { CutLayer } from './cut.js';
import { buildRun } from './entry.js';
import { FileReferences } from './file-references.js';
import { isVectorWithin, isWithin, type Vector } from './position.js';
import { RunLevels, runOf, type Unit } from './run-levels.js';
import type { MemoryRun } from './run.js';
import { headsOf, type Segment } from './segment.js';

/** Bytes of runs of segments that a vector cuts, kept for the next cut at the same place. */
const boundaryCacheBytes = 16 * 1024 * 1024;

export interface CutPart {
  /** Newest first. */
  readonly layers: CutLayer[];
  readonly paths: string[];
  readonly sources: Map<number, BodySource>;
}

export class SegmentList {
  #segments: readonly Segment[] = [];
  readonly references: FileReferences;
  readonly levels: RunLevels;
  readonly #boundaries = new BoundedCache<string, MemoryRun>(boundaryCacheBytes);

  constructor(private readonly context: JournalContext) {
    this.references = new FileReferences(context.storage, context.files);
    this.levels = new RunLevels(context, this.references);
  }

  get all(): readonly Segment[] {
    return this.#segments;
  }

  async open(segments: readonly Segment[]): Promise<void> {
    this.#segments = [...segments];
    await this.levels.open(segments);
  }

  push(segment: Segment): void {
    this.#segments = [...this.#segments, segment];
  }

  /** Takes the place of the removed segments, whose files go with their last reader. */
  replace(removedIds: readonly number[], added: readonly Segment[]): void {
    const removed = new Set(removedIds);
    const at = this.#segments.findIndex((segment) => removed.has(segment.id));
    const gone = this.#segments.filter((segment) => removed.has(segment.id));
    const rest = this.#segments.slice(at).filter((segment) => !removed.has(segment.id));
    this.#segments = [...this.#segments.slice(0, at), ...added, ...rest];
    this.levels.discard(this.#segments);
    for (const segment of gone) this.references.drop(segment.path);
  }

  /** The layers of the sealed segments up to the vector. Takes a reference on each file in `paths`. */
  async cut(vector: Vector): Promise<CutPart> {
    const whole: Segment[] = [];
    const layers: CutLayer[] = [];
    const paths: string[] = [];
    const sources = new Map<number, BodySource>();
    const boundaries: { segment: Segment; at: number }[] = [];
    const units: Unit[] = [];
    const flush = (): void => {
      units.push(...this.levels.cover(whole));
      whole.length = 0;
    };
    for (const segment of this.#segments) {
      if (!overlaps(segment.entry, vector)) continue;
      sources.set(segment.id, segment);
      paths.push(segment.path);
      if (isVectorWithin(segment.entry.last, vector)) whole.push(segment);
      else {
        flush();
        boundaries.push({ segment, at: units.length });
      }
    }
    flush();
    for (const unit of units) if (unit.merged !== undefined) paths.push(unit.merged.path);
    for (const path of paths) this.references.take(path);
    try {
      const runs = await Promise.all(boundaries.map(({ segment }) => this.#boundary(segment, vector)));
      let next = 0;
      for (let index = 0; index <= units.length; index++) {
        for (; boundaries[next]?.at === index; next++) layers.push({ run: runs[next] as MemoryRun });
        const unit = units[index];
        if (unit !== undefined && runOf(unit).extentCount > 0) layers.push(this.#layer(unit));
      }
    } catch (error) {
      for (const path of paths) this.references.release(path);
      throw error;
    }
    return { layers: layers.reverse(), paths, sources };
  }

  #layer(unit: Unit): CutLayer {
    const repair = async (): Promise<CutLayer[]> =>
      (await this.levels.repair(unit)).map((each) => this.#layer(each)).reverse();
    return { run: runOf(unit), repair };
  }

  async #boundary(segment: Segment, vector: Vector): Promise<MemoryRun> {
    const key = `${segment.id}:${Object.keys(segment.entry.last)
      .map((stream) => `${stream}=${vector[Number(stream)]?.incarnation}/${vector[Number(stream)]?.sequence}`)
      .join()}`;
    const known = this.#boundaries.get(key);
    if (known !== undefined) return known;
    const run = buildRun(segment.id, await headsOf(this.context, segment), vector);
    this.#boundaries.set(key, run, run.bytes.length);
    return run;
  }
}

/** True when the vector holds something of the segment. */
function overlaps(entry: SegmentEntry, vector: Vector): boolean {
  return Object.entries(entry.first).some(([stream, first]) => isWithin(vector, Number(stream), first));
}
