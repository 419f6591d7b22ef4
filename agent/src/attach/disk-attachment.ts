/**
 * One disk of a VM, attached to its capture export.
 *
 * Order: mirror ready (from here on every write arrives) → bitmaps turned over in one transaction → reader → the group is
 * told what was missed. A write that reached the source before the transaction is in the base bitmap; one after the
 * mirror began is captured; between both it is in either, maybe in both.
 */
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
import type { AttachRecord } from './attach-record.js';
import { covers, DiskBitmaps } from './disk-bitmaps.js';
import { clearExports, clearMirror, startMirror } from './mirror-job.js';
import { openReader, stopServer, type VmExports } from './nbd-exports-of-vm.js';
import { diskNames, type DiskNames } from './names.js';
import type { VmDiskReader } from './vm-disk-reader.js';

/** A job that ended before its VM is heard of within this time. */
const settleMs = 1500;

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
  /** Clients of the capture export. */
  readonly clientCount: () => number;
  readonly record: AttachRecord;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
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
  /** The mirror was not seen to end before its VM did. */
  private endedWithVm = false;
  private lostAtMs: number | undefined;
  /** What QEMU still has of the mirror serves nobody. */
  private broken = true;
  /** Reasons to lose it that were heard, attached or not. */
  private lossCount = 0;
  private readonly bitmaps: DiskBitmaps;
  /** By target: the incarnation whose first comparison the bitmap was weighed against. */
  private readonly narrowed = new Map<string, number>();

  constructor(options: DiskAttachmentOptions) {
    this.o = options;
    this.name = options.name;
    this.target = options.target;
    this.names = diskNames(options.group.agent, options.group.name, options.name);
    this.bitmaps = new DiskBitmaps({ ...options, names: this.names });
    options.reader.onUnreadable = () => this.lose('a sync must read it, which needs the VM to run');
  }

  get index(): number {
    return this.o.index;
  }

  /** QEMU holds a connection to the capture export. */
  get isConnected(): boolean {
    return this.o.clientCount() > 0;
  }

  get sizeBytes(): number {
    return this.o.group.disks[this.o.index]?.sizeBytes ?? 0;
  }

  /** What a new start of the agent would have to read. */
  get returnsBy(): 'bitmap' | 'compare' {
    return this.bitmaps.returnsBy;
  }

  /**
   * The mirror is gone or not to be believed. In one turn; QEMU is not asked. `withVm`: maybe because the VM ended, which
   * {@link settle} finds out; any other loss, also a later one, means that writes may have been missed. `failed`: QEMU
   * said that the mirror does not work any more.
   */
  lose(reason: string, { withVm = false, failed = false } = {}): void {
    this.lossCount++;
    if ((failed || !this.isConnected) && !this.broken) {
      this.broken = true;
      this.lostAtMs = this.o.clock.monotonicMs();
    }
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
    this.bitmaps.forget();
  }

  /**
   * The VM is off. A mirror that lived as long as the VM has seen its last write, so the disk counts as complete until
   * the VM starts. `certain`: QEMU was heard to shut down before its mirrors; else words of an earlier end are waited for.
   * Returns how long still.
   */
  settle(certain: boolean): number {
    if (!this.endedWithVm) return 0;
    const leftMs = certain ? 0 : (this.lostAtMs ?? 0) + settleMs - this.o.clock.monotonicMs();
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
      this.broken = false;
      await startMirror(monitor, clock, this.names, node.nodeName, { socketPath: captureSocket, exportName });
      const { lossCount } = this;
      const missed = await this.bitmaps.turnOver(this.exports(monitor), node.nodeName);
      await this.openReader(monitor);
      if (this.lossCount !== lossCount || !this.isConnected)
        throw new TidemarkError('hypervisor-failed', `The mirror of ${this.name} ended while it was being attached.`);
      this.attached = true;
      this.lastSync = missed === undefined ? 'compare' : 'bitmap';
      const proofs = this.bitmaps.proofs();
      const coversLink = (link: LinkStatus): boolean => covers(proofs, link);
      group.setAttached(index, true, missed === undefined ? undefined : { ranges: missed, coversLink });
      this.noteNarrowed(group.status.links);
      await this.bitmaps.adopt(missed !== undefined);
      const missedBytes = missed === undefined ? undefined : bytesIn(missed);
      this.o.events.emit('disk-attached', { group: group.name, disk: this.name, sync: this.lastSync, missedBytes });
    } catch (error) {
      this.attached = false;
      group.setAttached(index, false);
      // The guest shall not go on writing to a mirror that serves nobody. What cannot be taken away now is at the next try.
      await this.clear(monitor).catch(() => undefined);
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
    const { clock } = this.o;
    const nowMs = clock.monotonicMs();
    const lostForMs = this.broken || !this.isConnected ? nowMs - (this.lostAtMs ?? nowMs) : undefined;
    await clearMirror(monitor, clock, this.names, lostForMs);
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

  /** A target that was reached only after the attach need not be compared either, when the base marks all it may lack. */
  async catchUp(monitor: Monitor): Promise<void> {
    const { group, index } = this.o;
    const proofs = this.bitmaps.proofs();
    const late = group.status.links.filter(
      (link) =>
        this.narrowed.get(link.target) !== link.incarnation &&
        link.syncs.some(({ disk, kind }) => disk === this.name && kind === 'delta') &&
        covers(proofs, link),
    );
    if (!this.attached || late.length === 0) return;
    const ranges = await this.bitmaps.readBase(this.exports(monitor), this.nodeName);
    if (ranges === undefined || !this.attached) return;
    const missedBytes = bytesIn(ranges);
    for (const { target, incarnation } of late) {
      group.narrow(index, target, incarnation, ranges);
      this.o.events.emit('disk-caught-up', { group: group.name, disk: this.name, target, missedBytes });
    }
    this.noteNarrowed(late);
    await this.bitmaps.adopt(true);
  }

  async rotate(monitor: Monitor): Promise<void> {
    if (this.attached) await this.bitmaps.rotate(monitor, this.nodeName);
  }

  private noteNarrowed(links: readonly LinkStatus[]): void {
    for (const { target, incarnation } of links) if (incarnation > 0) this.narrowed.set(target, incarnation);
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

function bytesIn(ranges: readonly ByteRange[]): number {
  return ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}
