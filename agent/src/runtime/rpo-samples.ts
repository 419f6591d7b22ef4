/** The RPO of each group in slots of a day, in memory: 35 KiB a group. What a restart loses is a gap in the picture. */
import type { GroupStatus } from '../service/group-schemas.js';
import type { RpoHistory } from '../service/rpo-schemas.js';
import type { SourceSide } from './source-side.js';
import type { TargetSide } from './target-side.js';

type GroupRpo = Pick<GroupStatus, 'name' | 'rpoSeconds'>;

export const slotMs = 30_000;
export const slotCount = 2880;

/** In place of the number of a slot: never filled. */
const never = -1;

class Ring {
  /** Which slot stands here. */
  private readonly numbers = new Float64Array(slotCount).fill(never);
  /** The worst of the slot; infinite: there was no durable checkpoint. */
  private readonly worst = new Float32Array(slotCount);

  note(slot: number, rpoSeconds: number): void {
    const at = slot % slotCount;
    if (this.numbers[at] !== slot) this.worst[at] = 0;
    this.numbers[at] = slot;
    this.worst[at] = Math.max(this.worst[at]!, rpoSeconds);
  }

  /** Oldest first. */
  between(fromSlot: number, toSlot: number): RpoHistory['slots'] {
    const slots: RpoHistory['slots'] = [];
    for (let slot = Math.max(0, fromSlot, toSlot - slotCount + 1); slot <= toSlot; slot++) {
      const at = slot % slotCount;
      const worst = this.worst[at]!;
      if (this.numbers[at] === slot)
        slots.push({
          atMs: slot * slotMs,
          rpoSeconds: Number.isFinite(worst) ? Math.round(worst * 1000) / 1000 : null,
        });
    }
    return slots;
  }
}

export class RpoSamples {
  private readonly rings = new Map<string, Ring>();

  /** Of all groups that there are; a group that is not among them is forgotten. */
  note(nowMs: number, groups: readonly GroupRpo[]): void {
    const slot = Math.floor(nowMs / slotMs);
    for (const name of this.rings.keys()) if (!groups.some((group) => group.name === name)) this.rings.delete(name);
    for (const { name, rpoSeconds } of groups) {
      const ring = this.rings.get(name) ?? new Ring();
      this.rings.set(name, ring);
      ring.note(slot, rpoSeconds ?? Infinity);
    }
  }

  of(group: string, fromMs: number, nowMs: number): RpoHistory['slots'] {
    return this.rings.get(group)?.between(Math.floor(fromMs / slotMs), Math.floor(nowMs / slotMs)) ?? [];
  }
}

/** Of all groups of an agent; a source group stands before a history of the same name. */
export function rpoNow(sources: Pick<SourceSide, 'list' | 'find'>, targets: Pick<TargetSide, 'list'>): GroupRpo[] {
  const here = targets.list().filter(({ name }) => sources.find(name) === undefined);
  return [
    ...sources.list().map((source) => source.status()),
    ...here.map((group) => ({ name: group.name, rpoSeconds: (group.rpoMs() ?? Number.NaN) / 1000 })),
  ].map(({ name, rpoSeconds }) => ({ name, rpoSeconds: Number.isNaN(rpoSeconds) ? null : rpoSeconds }));
}
