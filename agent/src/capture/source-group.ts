/**
 * A group at its source: the disks that one agent captures, and a link to each target. `capture` is one synchronous
 * function: when it returns, the change has its sequence (or its place in the bitmap) on every link, and only then may
 * the guest be answered.
 */
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { checkpointId } from '../core/ids.js';
import { invariant } from '../core/invariant.js';
import type { Random } from '../core/random.js';
import type { ByteRange } from '../link/coverage.js';
import type { LinkOptions } from '../link/environment.js';
import type { DefinitionBlob } from '../stream/definitions.js';
import { SourceLink, type LinkGroup } from '../link/link.js';
import type { Change, GivenMark, MarkRequest } from '../link/link-capture.js';
import type { LinkStatus } from '../link/link-status.js';
import type { Hold } from '../link/session.js';
import type { DiskReader } from '../link/sync-disk.js';
import { AckGate } from './ack-gate.js';
import { CheckpointTimer } from './checkpoint-timer.js';
import { Histogram } from './histogram.js';
import { SourceTime } from './source-time.js';

export interface SourceDisk {
  readonly name: string;
  readonly sizeBytes: number;
  /** Where a sync reads the disk; undefined: the disk can be synced only by being written whole. */
  readonly reader?: DiskReader | undefined;
  /** A capture driver attaches it: until then it is detached. Default: it counts as attached from the start. */
  readonly attachedLater?: boolean;
  /** It left the group: its place in the list stays, so that indexes mean the same disk for ever. */
  readonly removed?: boolean | undefined;
}

/** What a capture driver knows of the time in which it did not see a disk. */
export interface Missed {
  /** Every range that was written meanwhile, and maybe more. */
  readonly ranges: readonly ByteRange[];
  /**
   * Also every range that this target lacks for another reason: what an earlier start of this agent captured and the
   * target never made durable. True: the comparison of all the disk that a new start begins with can be left out.
   */
  coversLink(link: LinkStatus): boolean;
}

export interface SourceGroupOptions {
  readonly name: string;
  /** This agent's name; names the stream. */
  readonly agent: string;
  readonly disks: readonly SourceDisk[];
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
  /** A target was reached, for the first time or again. */
  readonly onWelcome?: () => void;
  /** Milliseconds, at least 1000. Left out: what each target says (default 5000). */
  readonly checkpointIntervalMs?: number | undefined;
}

/** What a tag became on one link. */
export interface TagResult {
  readonly target: string;
  /** Undefined: this link can place no checkpoint now (not connected yet, or resyncing). */
  readonly mark: GivenMark | undefined;
}

export interface SourceGroupStatus {
  readonly name: string;
  readonly agent: string;
  readonly disks: readonly {
    readonly name: string;
    readonly sizeBytes: number;
    readonly attached: boolean;
    readonly removed: boolean;
  }[];
  readonly sourceTimeMs: number;
  readonly links: readonly LinkStatus[];
  readonly capturedBytes: number;
  readonly capturedCount: number;
  readonly markCount: number;
  readonly barriersBroken: number;
}

export class SourceGroup implements LinkGroup {
  readonly name: string;
  readonly agent: string;
  /** By index; those that were removed keep their place. */
  disks: readonly SourceDisk[];
  /** Time a mark took, and from the moment it was due to its sequence. */
  readonly markDuration = new Histogram();
  readonly markLateness = new Histogram();
  /** Of the newest mark, in microseconds. */
  lastMarkUs = 0;
  private readonly options: SourceGroupOptions;
  private readonly time: SourceTime;
  private readonly gate: AckGate;
  private readonly detached = new Set<number>();
  /** Disks that were never lost: no write that was not seen can be newer than one that was captured. */
  private readonly untouched = new Set<number>();
  private readonly timers = new Map<SourceLink, CheckpointTimer | undefined>();
  private readonly streamCounts = new Map<SourceLink, number>();
  private readonly definitions = new Map<string, DefinitionBlob>();
  private linkList: SourceLink[] = [];
  private capturedBytes = 0;
  private capturedCount = 0;
  private markCount = 0;
  private ownIntervalMs: number | undefined;

  constructor(options: SourceGroupOptions) {
    this.options = options;
    this.ownIntervalMs = options.checkpointIntervalMs;
    this.name = options.name;
    this.agent = options.agent;
    this.disks = options.disks;
    for (const [index, disk] of options.disks.entries()) this.expect(index, disk);
    this.time = new SourceTime(options.clock);
    this.gate = new AckGate(options.clock);
  }

  get links(): readonly SourceLink[] {
    return this.linkList;
  }

  /** Several source agents send to it: its checkpoints are made by the target. */
  get isShared(): boolean {
    return this.linkList.some((link) => (this.streamCounts.get(link) ?? 1) > 1);
  }

  /** Adds a target and begins to connect to it. */
  addLink(options: LinkOptions): SourceLink {
    const link = new SourceLink(this, options);
    this.linkList = [...this.linkList, link];
    for (const [vm, blob] of this.definitions) link.setDefinition(vm, blob);
    link.start();
    return link;
  }

  async removeLink(link: SourceLink): Promise<void> {
    this.linkList = this.linkList.filter((other) => other !== link);
    this.timers.get(link)?.stop();
    this.timers.delete(link);
    await link.stop();
  }

  async close(): Promise<void> {
    await Promise.all(this.linkList.map((link) => this.removeLink(link)));
  }

  /** Sequences a change on every link. Undefined: answer the guest now; else when the promise (a barrier) resolves. */
  capture(change: Change): Promise<void> | undefined {
    const disk = this.disks[change.disk];
    invariant(
      disk !== undefined && change.offsetBytes + change.lengthBytes <= disk.sizeBytes,
      'capture outside a disk',
    );
    if (disk.removed === true) return undefined;
    this.capturedCount++;
    this.capturedBytes += change.lengthBytes;
    for (const link of this.linkList) link.capture(change);
    const nowMs = this.options.clock.monotonicMs();
    for (const timer of this.timers.values()) timer?.poll(nowMs);
    return this.gate.wait;
  }

  /**
   * A disk joins the running group; returns its index. The checkpoints until it is synced are incomplete. Throws
   * `illegal-state` when a disk of the group has the name.
   */
  addDisk(disk: SourceDisk): number {
    if (this.disks.some(({ name, removed }) => name === disk.name && removed !== true))
      throw new TidemarkError('illegal-state', `Group ${this.name} has a disk ${disk.name} already.`);
    this.disks = [...this.disks, disk];
    this.expect(this.disks.length - 1, disk);
    for (const link of this.linkList) link.addDisk();
    return this.disks.length - 1;
  }

  /**
   * The disk has more bytes now; to be called before a write to them is captured. What is new is synced, and until then
   * the disk is missing from the checkpoints. `reader`: reads the grown disk; left out: the one before does. Throws
   * `disk-unknown`, and `illegal-state` for fewer bytes.
   */
  growDisk(index: number, sizeBytes: number, reader?: DiskReader): void {
    const disk = this.liveDisk(index);
    if (sizeBytes < disk.sizeBytes)
      throw new TidemarkError(
        'illegal-state',
        `Disk ${disk.name} of ${this.name} has ${disk.sizeBytes} bytes and cannot shrink to ${sizeBytes}.`,
      );
    if (sizeBytes === disk.sizeBytes) return;
    this.replaceDisk(index, { ...disk, sizeBytes, reader: reader ?? disk.reader });
    for (const link of this.linkList) link.growDisk(index);
  }

  /** The disk leaves the group: later checkpoints are complete without it, earlier ones keep it. Throws `disk-unknown`. */
  removeDisk(index: number): void {
    this.takeAway(index, 'remove');
  }

  /**
   * The disk is at another host, and this agent captures nothing of it any more: later checkpoints are incomplete until
   * another source agent of the group sends it. Throws `disk-unknown`.
   */
  leaveDisk(index: number): void {
    this.takeAway(index, 'leave');
  }

  /** A write failed on the disk itself: what it holds there is unknown, and is read again. */
  contentUnknown(disk: number, offsetBytes: number, lengthBytes: number): void {
    for (const link of this.linkList) link.contentUnknown(disk, offsetBytes, lengthBytes);
  }

  /** All of the disk is compared with each replica by digests, and what differs is sent. */
  compare(disk: number): void {
    for (const link of this.linkList) link.attached(disk, undefined, false);
  }

  /**
   * The capture driver sees the disk (its mirror is ready, so that every write arrives here), or lost it. A lost disk is
   * missing from every checkpoint; an attempt that failed counts as a loss. When it is back, what it `missed` is synced;
   * left out: nobody knows, all is compared.
   */
  setAttached(disk: number, attached: boolean, missed?: Missed): void {
    if (this.disks[disk]?.removed === true) return;
    if (!attached) {
      this.detached.add(disk);
      this.untouched.delete(disk);
      return;
    }
    if (!this.detached.delete(disk)) return;
    for (const link of this.linkList) {
      if (missed?.coversLink(link.status) === true) link.narrow(disk, missed.ranges);
      link.attached(disk, missed?.ranges, this.untouched.has(disk));
    }
  }

  /** In place of the comparison that the target's present incarnation began with: `missed` is all that it may lack. */
  narrow(disk: number, target: string, incarnation: number, missed: readonly ByteRange[]): void {
    const link = this.linkList.find((each) => each.target === target && each.status.incarnation === incarnation);
    if (link?.narrow(disk, missed) === true) link.attached(disk, missed, false);
  }

  /** The VM's definition from now on: later checkpoints name it. Undefined: the VM left the group. */
  setDefinition(vm: string, blob: DefinitionBlob | undefined): void {
    if (blob === undefined) this.definitions.delete(vm);
    else this.definitions.set(vm, blob);
    for (const link of this.linkList) link.setDefinition(vm, blob);
  }

  /** Places a checkpoint on every link now; one of kind `application` is provisional, and needs a verdict of each link. Throws `illegal-state` when none can take it. */
  tag(
    label: string | undefined,
    kind: 'tagged' | 'application' = 'tagged',
    attributes?: Readonly<Record<string, unknown>>,
  ): TagResult[] {
    if (this.isShared)
      throw new TidemarkError(
        'illegal-state',
        `Group ${this.name} has several source agents: make the checkpoint at the target, which coordinates them.`,
      );
    const id = checkpointId(this.options.random, this.time.nowMs());
    const results = this.linkList.map((link) => ({
      target: link.target,
      mark: this.place(link, { id, kind, label, attributes, provisional: kind === 'application' }),
    }));
    if (results.every(({ mark }) => mark === undefined))
      throw new TidemarkError(
        'illegal-state',
        `No link of group ${this.name} can take a checkpoint now: see its links.`,
      );
    return results;
  }

  /** The agent's slabs run out. */
  relieve(): void {
    for (const link of this.linkList) link.relieve();
  }

  get status(): SourceGroupStatus {
    const { name, agent, capturedBytes, capturedCount, markCount } = this;
    return {
      name,
      agent,
      disks: this.disks.map((disk, index) => ({
        name: disk.name,
        sizeBytes: disk.sizeBytes,
        attached: !this.detached.has(index),
        removed: disk.removed === true,
      })),
      sourceTimeMs: this.time.nowMs(),
      links: this.linkList.map((link) => link.status),
      capturedBytes,
      capturedCount,
      markCount,
      barriersBroken: this.gate.brokenCount,
    };
  }

  sourceTimeMs(): number {
    return this.time.nowMs();
  }

  raiseSourceTime(timeMs: number): void {
    this.time.raise(timeMs);
  }

  isDetached(disk: number): boolean {
    return this.detached.has(disk);
  }

  welcomed(link: SourceLink, streamCount: number, checkpointIntervalMs: number): void {
    if (!this.linkList.includes(link)) return;
    this.streamCounts.set(link, streamCount);
    this.options.onWelcome?.();
    const running = this.timers.get(link);
    if (streamCount > 1) {
      running?.stop();
      this.timers.set(link, undefined);
      return;
    }
    if (running !== undefined) return;
    this.startTimer(link, this.ownIntervalMs ?? checkpointIntervalMs);
  }

  /** Of groups with one source agent; the next checkpoint comes one new interval from now. */
  setCheckpointInterval(intervalMs: number): void {
    this.ownIntervalMs = intervalMs;
    for (const [link, timer] of [...this.timers]) {
      if (timer === undefined) continue;
      timer.stop();
      this.startTimer(link, intervalMs);
    }
  }

  synced(link: SourceLink): void {
    if ((this.streamCounts.get(link) ?? 1) === 1) this.crash(link);
  }

  hold(link: SourceLink, hold: Hold): GivenMark | undefined {
    const { id, kind, label, attributes } = hold.checkpoint;
    const provisional = kind === 'application';
    const mark = this.place(link, { id, kind, label, attributes, provisional, barrier: hold.barrier });
    if (mark !== undefined) this.gate.hold(hold.barrier, hold.holdMsMax);
    return mark;
  }

  release(_link: SourceLink, barrier: string): boolean {
    return this.gate.release(barrier);
  }

  private takeAway(index: number, change: 'remove' | 'leave'): void {
    this.replaceDisk(index, { ...this.liveDisk(index), removed: true, reader: undefined });
    this.detached.delete(index);
    for (const link of this.linkList) link.removeDisk(index, change);
  }

  private liveDisk(index: number): SourceDisk {
    const disk = this.disks[index];
    if (disk === undefined || disk.removed === true)
      throw new TidemarkError('disk-unknown', `Group ${this.name} has no disk ${index}.`);
    return disk;
  }

  private expect(index: number, { attachedLater }: SourceDisk): void {
    if (attachedLater !== true) return;
    this.detached.add(index);
    this.untouched.add(index);
  }

  private replaceDisk(index: number, disk: SourceDisk): void {
    this.disks = this.disks.map((each, at) => (at === index ? disk : each));
  }

  private startTimer(link: SourceLink, intervalMs: number): void {
    const { clock } = this.options;
    this.timers.set(link, new CheckpointTimer(clock, intervalMs, (dueMs) => this.due(link, dueMs)));
  }

  private due(link: SourceLink, dueMs: number): void {
    if (link.markIsDue && this.crash(link) !== undefined)
      this.markLateness.add((this.options.clock.monotonicMs() - dueMs) * 1000);
  }

  private crash(link: SourceLink): GivenMark | undefined {
    return this.place(link, { id: checkpointId(this.options.random, this.time.nowMs()), kind: 'crash' });
  }

  private place(link: SourceLink, request: MarkRequest): GivenMark | undefined {
    const startMs = this.options.clock.monotonicMs();
    const mark = link.mark(request);
    if (mark === undefined) return undefined;
    this.markCount++;
    this.lastMarkUs = (this.options.clock.monotonicMs() - startMs) * 1000;
    this.markDuration.add(this.lastMarkUs);
    return mark;
  }
}
