/**
 * The bitmaps of one disk (rules in bitmaps.ts), and the proof that they mark all that a target may lack.
 *
 * A younger bitmap replaces the base when, for every link: everything that was captured before the younger began had a
 * sequence (a moment without an open sync or a retreat), and that sequence is durable. The proof is kept durably: a later
 * start of the agent believes the base for a target that holds at least what the proof says, on the same branch.
 */
import type { SourceGroup } from '../capture/source-group.js';
import type { Clock } from '../core/clock.js';
import { randomHex } from '../core/ids.js';
import type { Random } from '../core/random.js';
import type { Monitor } from '../hypervisor/monitor.js';
import type { ByteRange } from '../link/coverage.js';
import type { LinkStatus } from '../link/link-status.js';
import type { AttachRecord, Covered } from './attach-record.js';
import { add, isSound, listBitmaps, merge, remove, transaction, type BitmapAction } from './bitmaps.js';
import type { DiskNames } from './names.js';
import { readBitmap, type VmExports } from './nbd-exports-of-vm.js';

/** A rotation lets no guest wait for longer than a write does; more often would only shorten what a return reads. */
const rotateMs = 15_000;

export interface DiskBitmapsOptions {
  readonly group: SourceGroup;
  /** Of the disk in its group. */
  readonly name: string;
  readonly names: DiskNames;
  readonly record: AttachRecord;
  readonly clock: Clock;
  readonly random: Random;
}

interface Rotation {
  readonly younger: string;
  /** By target: what it must make durable to hold all that was written before `younger` began. */
  readonly wanted: Map<string, Covered>;
}

export class DiskBitmaps {
  private readonly o: DiskBitmapsOptions;
  private base: string | undefined;
  private rotation: Rotation | undefined;
  private nextRotationMs = 0;

  constructor(options: DiskBitmapsOptions) {
    this.o = options;
  }

  /** What a new start of the agent would have to read. */
  get returnsBy(): 'bitmap' | 'compare' {
    const proofs = this.proofs();
    const { links } = this.o.group.status;
    return this.base !== undefined && links.every(({ target }) => proofs[target] !== undefined) ? 'bitmap' : 'compare';
  }

  /** QEMU's process ended, and the bitmaps with it. */
  forget(): void {
    this.base = undefined;
    this.rotation = undefined;
  }

  /** New bitmaps at one moment. What the base marked by then; undefined: there is none to be believed. */
  async turnOver(at: VmExports, node: string): Promise<ByteRange[] | undefined> {
    const { record, name, names } = this.o;
    const { monitor } = at;
    const there = await listBitmaps(monitor, node, names.prefix);
    const known = this.base ?? record.disk(name)?.base;
    const base = there.find((bitmap) => bitmap.name === known && isSound(bitmap))?.name;
    const drops = there.flatMap((bitmap) =>
      bitmap.name === undefined || bitmap.name === base ? [] : [remove(node, bitmap.name)],
    );
    const younger = this.newName();
    this.rotation = undefined;
    if (base === undefined) {
      await transaction(monitor, [...drops, add(node, younger)]);
      this.base = younger;
      return undefined;
    }
    const copy = this.newName();
    await transaction(monitor, [...drops, ...copying(node, base, copy), add(node, younger)]);
    this.base = base;
    this.rotation = { younger, wanted: new Map() };
    return this.readCopy(at, node, copy);
  }

  /** What the base marks now; undefined: there is none. */
  async readBase(at: VmExports, node: string): Promise<ByteRange[] | undefined> {
    if (this.base === undefined) return undefined;
    const copy = this.newName();
    await transaction(at.monitor, copying(node, this.base, copy));
    return this.readCopy(at, node, copy);
  }

  /** Begins a younger bitmap, or drops the base when every target holds what was before the younger. */
  async rotate(monitor: Monitor, node: string): Promise<void> {
    const { clock, record, name, group } = this.o;
    if (this.base === undefined) return;
    const { links } = group.status;
    const { rotation } = this;
    if (rotation === undefined) {
      if (clock.monotonicMs() < this.nextRotationMs || !links.every((link) => this.isClean(link))) return;
      const younger = this.newName();
      await transaction(monitor, [add(node, younger)]);
      // What was under way when it began has been answered, and so has its sequence, when nothing is under way any more.
      await transaction(monitor, []);
      this.rotation = { younger, wanted: new Map() };
      return;
    }
    const covered = this.coveredBy(rotation, links);
    if (covered === undefined) return;
    await record.setDisk(name, { base: rotation.younger, covered });
    await transaction(monitor, [remove(node, this.base)]);
    this.base = rotation.younger;
    this.rotation = undefined;
    this.nextRotationMs = clock.monotonicMs() + rotateMs;
  }

  /** What the targets were seen to hold when the base was all that they may lack; of this start or an earlier one. */
  proofs(): Record<string, Covered> {
    const known = this.o.record.disk(this.o.name);
    return known !== undefined && known.base === this.base ? { ...known.covered } : {};
  }

  /** The base as it is now becomes durable. `kept`: as one of an earlier attach; its proofs hold for present links too. */
  async adopt(kept: boolean): Promise<void> {
    const { record, name, group } = this.o;
    const covered = kept ? this.proofs() : {};
    for (const link of group.status.links) {
      const proof = covered[link.target];
      if (proof !== undefined && covers(covered, link)) covered[link.target] = { ...proof, through: link.incarnation };
    }
    await record.setDisk(name, { base: this.base ?? '', covered });
  }

  /** Undefined: a target still lacks something that was written before the younger bitmap began. */
  private coveredBy({ wanted }: Rotation, links: readonly LinkStatus[]): Record<string, Covered> | undefined {
    const covered: Record<string, Covered> = {};
    for (const link of links) {
      const { target, epoch, branch, incarnation, sequenceGiven } = link;
      let want = wanted.get(target);
      if (want?.incarnation !== incarnation && this.isClean(link)) {
        want = { epoch, branch, incarnation, sequence: sequenceGiven, through: incarnation };
        wanted.set(target, want);
      }
      if (want?.incarnation !== incarnation) continue;
      if (link.sequenceDurable >= want.sequence && want.branch === branch) covered[target] = want;
    }
    return links.every(({ target }) => covered[target] !== undefined) ? covered : undefined;
  }

  /** Everything captured is on its way in order: what is given a sequence now comes after all that was before. */
  private isClean(link: LinkStatus): boolean {
    return link.incarnation > 0 && link.stage !== 'bitmap' && !link.syncs.some(({ disk }) => disk === this.o.name);
  }

  private async readCopy(at: VmExports, node: string, copy: string): Promise<ByteRange[]> {
    const ranges = await readBitmap(at, this.o.names.bitmapExport, node, copy);
    await transaction(at.monitor, [remove(node, copy)]);
    return ranges;
  }

  private newName(): string {
    return `${this.o.names.prefix}-${randomHex(this.o.random, 4)}`;
  }
}

/** The link's target goes on from where the base's beginning was proven, and has lost nothing of it. */
export function covers(proofs: Readonly<Record<string, Covered>>, link: LinkStatus): boolean {
  const proof = proofs[link.target];
  const { previous } = link;
  if (proof === undefined || previous === undefined) return false;
  if (proof.epoch !== link.epoch || proof.branch !== link.branch) return false;
  if (previous.incarnation === proof.incarnation) return previous.durableSequence >= proof.sequence;
  return previous.incarnation > proof.incarnation && previous.incarnation <= proof.through;
}

function copying(node: string, base: string, copy: string): BitmapAction[] {
  return [add(node, copy, true), merge(node, copy, base)];
}
