/**
 * One disk of a VM, attached to its capture export.
 *
 * Order: mirror ready (from here on every write arrives) → bitmaps turned over in one transaction → reader → the group is
 * told what was missed. A write that reached the source before the transaction is in the base bitmap; one after the
 * mirror began is captured; between both it is in either, maybe in both.
 */
import { randomHex } from '../core/ids.js';
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import type { Random } from '../core/random.js';
import type { SourceGroup } from '../capture/source-group.js';
import type { SourceNode } from '../hypervisor/hypervisor.js';
import type { Monitor } from '../hypervisor/monitor.js';
import type { ByteRange } from '../link/coverage.js';
import type { LinkStatus } from '../link/link-status.js';
import type { NbdBlockDevice } from '../nbd/nbd-block-device.js';
import type { AttachRecord, Covered } from './attach-record.js';
import { add, isSound, listBitmaps, merge, remove, transaction } from './bitmaps.js';
import { clearExports, clearMirror, startMirror } from './mirror-job.js';
import { openReader, readBitmap, stopServer, type VmExports } from './nbd-exports-of-vm.js';
import { diskNames, type DiskNames } from './names.js';
import type { VmDiskReader } from './vm-disk-reader.js';

/** A rotation lets no guest wait for longer than a write does; more often would only shorten what a return reads. */
const rotateMs = 15_000;

export interface DiskAttachmentOptions {
  readonly group: SourceGroup;
  /** Index in the group. */
  readonly index: number;
  readonly name: string;
  /** Name within the VM. */
  readonly target: string;
  readonly reader: VmDiskReader;
  /** Of the agent's capture export. */
  readonly exportName: string;
  readonly captureSocket: string;
  /** Where this VM's QEMU listens for the agent. */
  readonly readerSocket: string;
  readonly record: AttachRecord;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
}

/** A job that ended before its VM is heard of within this time. */
const settleMs = 1500;

interface Rotation {
  readonly younger: string;
  /** By target: what it must make durable to hold all that was written before `younger` began. */
  readonly wanted: Map<string, Covered>;
}

export class DiskAttachment {
  readonly names: DiskNames;
  readonly target: string;
  readonly name: string;
  attached = false;
  /** The VM is off and all that it ever wrote was captured: complete, although nothing is attached. */
  quiet = false;
  /** Since the last attach: how it knew what was missed. */
  lastSync: 'bitmap' | 'compare' | undefined;
  private readonly o: DiskAttachmentOptions;
  private device: NbdBlockDevice | undefined;
  private nodeName = '';
  private base: string | undefined;
  /** The mirror was not seen to end before its VM did. */
  private endedWithVm = false;
  private lostAtMs = 0;
  private rotation: Rotation | undefined;
  private nextRotationMs = 0;

  constructor(options: DiskAttachmentOptions) {
    this.o = options;
    this.name = options.name;
    this.target = options.target;
    this.names = diskNames(options.group.agent, options.group.name, options.name);
    options.reader.onUnreadable = () => this.lose('a sync must read it, which needs the VM to run');
  }

  get index(): number {
    return this.o.index;
  }

  get sizeBytes(): number {
    return this.o.group.disks[this.o.index]?.sizeBytes ?? 0;
  }

  /** What a new start of the agent would have to read. */
  get returnsBy(): 'bitmap' | 'compare' {
    const covered = this.coverage();
    const { links } = this.o.group.status;
    return this.base !== undefined && links.every(({ target }) => covered[target] !== undefined) ? 'bitmap' : 'compare';
  }

  /**
   * The mirror is gone or not to be believed. In one turn; QEMU is not asked. `withVm`: maybe because the VM ended, which
   * {@link settle} finds out; any other loss, also a later one, means that writes may have been missed.
   */
  lose(reason: string, { withVm = false } = {}): void {
    if (!this.attached && !this.quiet) {
      if (!withVm) this.endedWithVm = false;
      return;
    }
    this.endedWithVm = withVm && this.attached;
    this.lostAtMs = this.o.clock.monotonicMs();
    this.attached = false;
    this.quiet = false;
    this.o.group.setAttached(this.o.index, false);
    this.closeReader();
    this.o.events.emit('disk-detached', { group: this.o.group.name, disk: this.name, reason });
  }

  /** QEMU's process ended: nothing of it is left. */
  forget(): void {
    this.base = undefined;
    this.rotation = undefined;
  }

  /**
   * The VM is off. A mirror that lived as long as the VM has seen its last write, so the disk counts as complete until
   * the VM starts. `certain`: QEMU was heard to shut down before its mirrors; else words of an earlier end are waited for.
   * Returns how long still.
   */
  settle(certain: boolean): number {
    if (!this.endedWithVm) return 0;
    const leftMs = certain ? 0 : this.lostAtMs + settleMs - this.o.clock.monotonicMs();
    if (leftMs > 0) return leftMs;
    this.endedWithVm = false;
    const { group, index, events } = this.o;
    if (group.status.links.some(({ syncs }) => syncs.some(({ disk }) => disk === this.name))) return 0;
    this.quiet = true;
    group.setAttached(index, true, { ranges: [], coversLink: () => false });
    events.emit('disk-quiet', { group: group.name, disk: this.name });
    return 0;
  }

  /** `node`: what the guest's device stands on, without a mirror of ours above. Throws what QEMU refuses. */
  async attach(monitor: Monitor, node: SourceNode): Promise<void> {
    const { group, index, clock, captureSocket, exportName } = this.o;
    if (node.sizeBytes < this.sizeBytes)
      throw new TidemarkError(
        'vm-refused',
        `Disk ${this.name} has ${node.sizeBytes} bytes in its VM, the group knows ${this.sizeBytes}: a disk cannot shrink.`,
      );
    if (node.sizeBytes > this.sizeBytes) {
      this.o.events.emit('disk-grown', { group: group.name, disk: this.name, sizeBytes: node.sizeBytes });
      group.growDisk(index, node.sizeBytes);
    }
    this.nodeName = node.nodeName;
    this.endedWithVm = false;
    try {
      await startMirror(monitor, clock, this.names, node.nodeName, { socketPath: captureSocket, exportName });
      const missed = await this.turnOver(monitor);
      await this.openReader(monitor);
      this.attached = true;
      this.lastSync = missed === undefined ? 'compare' : 'bitmap';
      const told = this.coverage();
      group.setAttached(
        index,
        true,
        missed === undefined ? undefined : { ranges: missed, coversLink: (link) => this.covers(told, link) },
      );
      await this.adopt(missed !== undefined);
      const missedBytes = missed?.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
      this.o.events.emit('disk-attached', { group: group.name, disk: this.name, sync: this.lastSync, missedBytes });
    } catch (error) {
      this.attached = false;
      group.setAttached(index, false);
      this.closeReader();
      throw error;
    }
  }

  /** Takes the mirror and the reader away; the bitmaps stay, so that the way back is short. */
  async detach(monitor: Monitor, reason: string): Promise<void> {
    this.lose(reason);
    await this.clear(monitor);
  }

  /** Leftovers of an earlier mirror, ours or of an earlier start of this agent. */
  async clear(monitor: Monitor): Promise<void> {
    this.closeReader();
    await clearMirror(monitor, this.o.clock, this.names);
  }

  /** Ends QEMU's NBD server when nobody else uses it. */
  async stopReading(monitor: Monitor): Promise<void> {
    this.closeReader();
    await stopServer(this.exports(monitor), [this.names.readerExport, this.names.bitmapExport]);
  }

  /** The connection that syncs read through is there, or made again. */
  async keepReader(monitor: Monitor): Promise<void> {
    if (this.device !== undefined) return;
    const { clock } = this.o;
    await clearExports(monitor, clock, [this.names.readerExport]);
    await this.openReader(monitor);
  }

  /** Begins a younger bitmap, or drops the base when every target holds what was before the younger. */
  async rotate(monitor: Monitor): Promise<void> {
    const { clock, random, record, name } = this.o;
    if (!this.attached || this.base === undefined) return;
    const links = this.o.group.status.links;
    const { rotation } = this;
    if (rotation === undefined) {
      if (clock.monotonicMs() < this.nextRotationMs || !links.every((link) => this.isClean(link))) return;
      const younger = `${this.names.prefix}-${randomHex(random, 4)}`;
      await transaction(monitor, [add(this.nodeName, younger)]);
      // What was under way when it began has been answered, and so has its sequence, when nothing is under way any more.
      await transaction(monitor, []);
      this.rotation = { younger, wanted: new Map() };
      return;
    }
    const covered = this.coveredBy(rotation, links);
    if (covered === undefined) return;
    await record.setDisk(name, { base: rotation.younger, covered });
    await transaction(monitor, [remove(this.nodeName, this.base)]);
    this.base = rotation.younger;
    this.rotation = undefined;
    this.nextRotationMs = clock.monotonicMs() + rotateMs;
  }

  /** Undefined: a target still lacks something that was written before the younger bitmap began. */
  private coveredBy({ wanted }: Rotation, links: readonly LinkStatus[]): Record<string, Covered> | undefined {
    const covered: Record<string, Covered> = {};
    for (const link of links) {
      const { target, epoch, branch, incarnation, sequenceGiven } = link;
      let want = wanted.get(target);
      if ((want === undefined || want.incarnation !== incarnation) && this.isClean(link)) {
        want = { epoch, branch, incarnation, sequence: sequenceGiven, through: incarnation };
        wanted.set(target, want);
      }
      if (want === undefined || want.incarnation !== incarnation) continue;
      if (link.sequenceDurable >= want.sequence && want.branch === branch) covered[target] = want;
    }
    return links.every(({ target }) => covered[target] !== undefined) ? covered : undefined;
  }

  /** Everything captured is on its way in order: what is given a sequence now comes after all that was before. */
  private isClean(link: LinkStatus): boolean {
    return link.incarnation > 0 && link.stage !== 'bitmap' && !link.syncs.some(({ disk }) => disk === this.name);
  }

  /** New bitmaps at one moment. What the base marked by then; undefined: there is none to be believed. */
  private async turnOver(monitor: Monitor): Promise<ByteRange[] | undefined> {
    const { random, record, name } = this.o;
    const { prefix } = this.names;
    const there = await listBitmaps(monitor, this.nodeName, prefix);
    const known = this.base ?? record.disk(name)?.base;
    const base = there.find((bitmap) => bitmap.name === known && isSound(bitmap))?.name;
    const others = there.flatMap((bitmap) => (bitmap.name === undefined || bitmap.name === base ? [] : [bitmap.name]));
    const younger = `${prefix}-${randomHex(random, 4)}`;
    const copy = `${prefix}-${randomHex(random, 4)}`;
    const drops = others.map((other) => remove(this.nodeName, other));
    this.rotation = undefined;
    if (base === undefined) {
      await transaction(monitor, [...drops, add(this.nodeName, younger)]);
      this.base = younger;
      return undefined;
    }
    const copying = [add(this.nodeName, copy, true), merge(this.nodeName, copy, base)];
    await transaction(monitor, [...drops, ...copying, add(this.nodeName, younger)]);
    this.base = base;
    this.rotation = { younger, wanted: new Map() };
    const ranges = await readBitmap(this.exports(monitor), this.names.bitmapExport, this.nodeName, copy);
    await transaction(monitor, [remove(this.nodeName, copy)]);
    return ranges;
  }

  /** What the targets were seen to hold when the base was all that they may lack; of this start or an earlier one. */
  private coverage(): Record<string, Covered> {
    const known = this.o.record.disk(this.name);
    return known !== undefined && known.base === this.base ? { ...known.covered } : {};
  }

  /** The link's target goes on from where the base's beginning was proven, and has lost nothing of it. */
  private covers(covered: Record<string, Covered>, link: LinkStatus): boolean {
    const proof = covered[link.target];
    const { previous } = link;
    if (proof === undefined || previous === undefined) return false;
    if (proof.epoch !== link.epoch || proof.branch !== link.branch) return false;
    if (previous.incarnation === proof.incarnation) return previous.durableSequence >= proof.sequence;
    return previous.incarnation > proof.incarnation && previous.incarnation <= proof.through;
  }

  /** The base as it is now becomes durable; a proof of an earlier incarnation holds for the present one too. */
  private async adopt(kept: boolean): Promise<void> {
    const { record, name, group } = this.o;
    const base = this.base ?? '';
    if (!kept) {
      await record.setDisk(name, { base, covered: {} });
      return;
    }
    const covered = this.coverage();
    for (const link of group.status.links) {
      const proof = covered[link.target];
      if (proof !== undefined && this.covers(covered, link))
        covered[link.target] = { ...proof, through: link.incarnation };
    }
    await record.setDisk(name, { base, covered });
  }

  private exports(monitor: Monitor): VmExports {
    return { monitor, clock: this.o.clock, socketPath: this.o.readerSocket };
  }

  private async openReader(monitor: Monitor): Promise<void> {
    const device = await openReader(this.exports(monitor), this.names.readerExport, this.nodeName);
    this.device = device;
    this.o.reader.use(device);
    void device.closed.then(() => {
      if (this.device === device) this.closeReader();
    });
  }

  private closeReader(): void {
    const { device } = this;
    this.device = undefined;
    this.o.reader.use(undefined);
    if (device !== undefined) void device.close().catch(() => undefined);
  }
}
