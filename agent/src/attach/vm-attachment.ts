/**
 * Keeps the disks of one VM attached. One loop looks at what is and makes it what should be; events only wake it, so
 * nothing depends on an event that was missed.
 *
 * | state | meaning |
 * |---|---|
 * | searching | not looked yet, or the hypervisor does not answer |
 * | off | the VM does not run; attached as soon as it is started |
 * | attaching | mirrors are being made |
 * | attached | every disk's mirror is ready |
 * | waiting | an attempt failed; again after a back-off |
 * | refused | the VM or a disk cannot be captured as it is; looked at again now and then |
 * | released | let go by a person, until a time |
 * | held-back | let go because the agent hung; the guard's policy says when it may be attached |
 */
import type { SourceGroup } from '../capture/source-group.js';
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError, type ErrorCode } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import type { AttachVerdict } from '../guard/attach-policy.js';
import type { Hypervisor, Vm, VmDisk, VmEvent } from '../hypervisor/hypervisor.js';
import type { Monitor, MonitorEvent } from '../hypervisor/monitor.js';
import type { AttachRecord } from './attach-record.js';
import { DefinitionFollower } from './definition-follower.js';
import type { DiskAttachment } from './disk-attachment.js';
import { blockJobs, ownsDisks } from './mirror-job.js';

export type VmAttachState =
  'searching' | 'off' | 'attaching' | 'attached' | 'waiting' | 'refused' | 'released' | 'held-back';

const attachedPollMs = 2000;
const idlePollMs = 5000;
const refusedPollMs = 30_000;
const backOffMsMin = 500;
const backOffMsMax = 30_000;
/** Disks and definition are looked at that often without an event; QEMU itself tells of no new disk. */
const inspectMs = { libvirt: 30_000, qmp: 5000 } as const;

export interface VmAttachmentOptions {
  readonly group: SourceGroup;
  readonly hypervisor: Hypervisor;
  /** Name and UUID as the hypervisor said. */
  readonly vm: { readonly name: string; readonly uuid: string };
  readonly disks: readonly DiskAttachment[];
  /** All disks that can be captured belong to the group: those that come join it, those that go leave it. */
  readonly selectsAll: boolean;
  /** Takes a new disk of the VM into the group. */
  readonly join: (disk: VmDisk) => DiskAttachment;
  /** The VM has it no more: it leaves the group. */
  readonly leave: (disk: DiskAttachment) => Promise<void>;
  /** Another host may run the VM: its disks are given up when it has gone there. Left out: it stays. */
  readonly migration?: VmMigration | undefined;
  readonly record: AttachRecord;
  readonly clock: Clock;
  readonly events: EventSink;
  readonly mayAttach: () => AttachVerdict;
}

export interface VmMigration {
  /** Another agent may capture the disk from now on. */
  giveUp(disk: DiskAttachment): Promise<void>;
  /** The VM is at another host, its disks are given up, nothing is looked at any more. */
  gone(): void;
}

export interface VmFailure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly sinceMs: number;
}

export class VmAttachment {
  state: VmAttachState = 'searching';
  failure: VmFailure | undefined;
  private readonly o: VmAttachmentOptions;
  private monitor: Monitor | undefined;
  private wake = Promise.withResolvers<void>();
  private running: Promise<void> | undefined;
  private unwatch: (() => void) | undefined;
  private closing = false;
  private backOffMs = backOffMsMin;
  private inspectAtMs = -Infinity;
  private readonly definition: DefinitionFollower;
  /** It was heard to have been migrated, or may have been. */
  private mayHaveLeft = true;
  /** QEMU said that the VM shuts down, before anything was heard of its mirrors. */
  private shutdownSeen = false;

  disks: readonly DiskAttachment[];

  constructor(options: VmAttachmentOptions) {
    this.o = options;
    this.disks = options.disks;
    this.definition = new DefinitionFollower(options);
  }

  get vm(): { readonly name: string; readonly uuid: string } {
    return this.o.vm;
  }

  get hypervisor(): Hypervisor {
    return this.o.hypervisor;
  }

  get releasedUntilMs(): number | undefined {
    return this.o.record.releasedUntilMs;
  }

  start(): void {
    this.unwatch = this.o.hypervisor.watch((event) => this.heard(event));
    this.running ??= this.run();
  }

  /** Looks again at once. */
  kick(): void {
    this.wake.resolve();
  }

  /** A client of a disk's capture export came or went. In the same turn as the last one's end. */
  clientsChanged(disk: DiskAttachment, count: number): void {
    if (count === 0) disk.lose('the connection to the capture export ended', { withVm: true });
    this.kick();
  }

  /** Lets go until then (wall clock); durable when it resolves. Undefined: attaches again now. */
  async release(untilMs: number | undefined): Promise<void> {
    await this.o.record.release(untilMs);
    this.tell(untilMs === undefined ? 'vm-attach-asked' : 'vm-released', { untilMs });
    this.backOffMs = backOffMsMin;
    this.kick();
  }

  /** Takes the mirrors away in order; guests go on unprotected. Bitmaps stay. */
  async close(): Promise<void> {
    this.closing = true;
    this.unwatch?.();
    this.definition.stop();
    this.kick();
    await this.running;
    await this.letGo('the agent stops').catch(() => undefined);
    this.dropMonitor();
  }

  private async run(): Promise<void> {
    while (!this.closing) {
      this.wake = Promise.withResolvers<void>();
      const waitMs = await this.look();
      if (this.closing) return;
      const timer = this.o.clock.after(waitMs, () => this.kick());
      await this.wake.promise;
      timer.cancel();
    }
  }

  /** Resolves with how long nothing has to be done. */
  private async look(): Promise<number> {
    try {
      const waitMs = await this.converge();
      if (this.state === 'attached') this.backOffMs = backOffMsMin;
      this.failure = undefined;
      return waitMs;
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error;
      return this.failed(error);
    }
  }

  private async converge(): Promise<number> {
    const { record, clock } = this.o;
    if (await this.hasLeft()) {
      await this.giveUp();
      return idlePollMs;
    }
    const untilMs = record.releasedUntilMs;
    if (untilMs !== undefined) {
      const leftMs = untilMs - clock.wallMs();
      if (leftMs > 0) {
        await this.letGo('released by a person');
        this.enter('released');
        return Math.min(leftMs, refusedPollMs);
      }
      await record.release(undefined);
      this.tell('vm-release-ended', {});
    }
    const verdict = this.o.mayAttach();
    if (verdict.kind !== 'now') {
      await this.letGo('the agent hung');
      this.enter('held-back');
      return verdict.kind === 'wait' ? verdict.waitMs : idlePollMs;
    }
    const place = await this.place();
    if (place !== 'here') {
      this.vmGone();
      this.enter('off');
      // What a VM writes at another host is captured by nobody here.
      if (place === 'away') for (const disk of this.disks) disk.lose('the VM was migrated');
      const waitMs = Math.max(0, ...this.disks.map((disk) => disk.settle(this.shutdownSeen)));
      return waitMs > 0 ? waitMs : idlePollMs;
    }
    for (const disk of this.disks) if (disk.quiet) disk.lose('the VM runs');
    const monitor = await this.openMonitor();
    await this.check(monitor);
    await this.inspect(monitor);
    if (this.disks.some(({ attached }) => !attached)) await this.attach(monitor);
    for (const disk of this.disks) {
      await disk.keepReader(monitor);
      await disk.catchUp(monitor);
      await disk.rotate(monitor);
    }
    this.enter('attached');
    return attachedPollMs;
  }

  /** Where it runs; `off`: nowhere. While all is attached the mirrors themselves say that it is here. */
  private async place(): Promise<'here' | 'off' | 'away'> {
    if (this.state === 'attached' && this.disks.every(({ attached }) => attached)) return 'here';
    const vm = await this.o.hypervisor.findVm(this.o.vm.uuid).catch((error: unknown) => {
      if (isTidemarkError(error, 'vm-unknown')) return this.o.hypervisor.findVm(this.o.vm.name);
      throw error;
    });
    if (vm.state !== 'off') return 'here';
    return vm.movedAway ? 'away' : 'off';
  }

  private async openMonitor(): Promise<Monitor> {
    if (this.monitor !== undefined) return this.monitor;
    const monitor = await this.o.hypervisor.monitor(this.o.vm);
    this.monitor = monitor;
    monitor.onEvent((event) => this.heardMonitor(event));
    void monitor.closed.then(() => {
      if (this.monitor === monitor) this.monitor = undefined;
      this.kick();
    });
    return monitor;
  }

  /** What is not mirrored any more is lost, whatever was heard of it. */
  private async check(monitor: Monitor): Promise<void> {
    if (!this.disks.some(({ attached }) => attached)) return;
    const jobs = await blockJobs(monitor);
    for (const disk of this.disks) {
      const job = jobs.find(({ device }) => device === disk.names.job);
      if (job?.ready !== true) disk.lose('its mirror has ended');
      else if (!disk.isConnected) disk.lose('no connection to the capture export');
    }
  }

  /** It runs at another host now. One that is off stays this agent's, unless the hypervisor says that it was migrated. */
  private async hasLeft(): Promise<boolean> {
    if (this.o.migration === undefined || (this.state === 'attached' && !this.mayHaveLeft)) return false;
    try {
      const { movedAway } = await this.o.hypervisor.findVm(this.o.vm.uuid);
      this.mayHaveLeft = movedAway;
      return movedAway;
    } catch (error) {
      if (isTidemarkError(error, 'vm-unknown')) return true;
      throw error;
    }
  }

  private async giveUp(): Promise<void> {
    const { migration, record } = this.o;
    for (const disk of this.disks) disk.lose('the VM is at another host');
    this.vmGone();
    if (record.releasedUntilMs !== undefined) await record.release(undefined);
    for (const disk of this.disks) await migration?.giveUp(disk);
    this.disks = [];
    this.definition.forget();
    this.unwatch?.();
    this.closing = true;
    this.tell('vm-left', {});
    migration?.gone();
  }

  private async attach(monitor: Monitor): Promise<void> {
    const { hypervisor, vm } = this.o;
    this.enter('attaching');
    if (!(await ownsDisks(monitor)))
      throw new TidemarkError('illegal-state', `VM ${vm.name} is being migrated: it is attached where it runs then.`);
    this.shutdownSeen = false;
    for (const disk of this.disks) {
      if (disk.attached) continue;
      await disk.clear(monitor);
      await disk.attach(monitor, await hypervisor.findNode(vm, disk.target, monitor));
    }
  }

  /** Looks at disks and definition when it is time, something was heard or is to be attached. Throws `vm-refused`. */
  private async inspect(monitor: Monitor): Promise<void> {
    const { clock, hypervisor, vm } = this.o;
    const isDue = clock.monotonicMs() >= this.inspectAtMs || this.disks.some(({ attached }) => !attached);
    if (!isDue) return;
    this.inspectAtMs = clock.monotonicMs() + inspectMs[hypervisor.kind];
    if (this.o.selectsAll) await this.follow(await hypervisor.findVm(vm.name), monitor);
    await this.definition.read(this.disks.map(({ target, name }) => ({ target, disk: name })));
  }

  /** Disks that were plugged in join the group, those that were taken away leave it. */
  private async follow(vm: Vm, monitor: Monitor): Promise<void> {
    const { join, leave } = this.o;
    for (const disk of this.disks) {
      if (vm.disks.some(({ target }) => target === disk.target)) continue;
      disk.lose('the VM has it no more');
      await disk.clear(monitor);
      await leave(disk);
      this.disks = this.disks.filter((other) => other !== disk);
    }
    for (const disk of vm.disks) {
      if (disk.refusal !== undefined || disk.sizeBytes === 0) continue;
      if (this.disks.some(({ target }) => target === disk.target)) continue;
      this.disks = [...this.disks, join(disk)];
    }
  }

  private async letGo(reason: string): Promise<void> {
    const { disks } = this;
    for (const disk of disks) disk.lose(reason);
    if ((await this.place()) !== 'here') {
      this.vmGone();
      return;
    }
    const monitor = await this.openMonitor();
    for (const disk of disks) await disk.detach(monitor, reason);
    for (const disk of disks) await disk.stopReading(monitor);
  }

  private vmGone(): void {
    for (const disk of this.disks) {
      if (disk.attached) disk.lose('the VM does not run', { withVm: true });
      disk.forget();
    }
    this.dropMonitor();
  }

  private dropMonitor(): void {
    const { monitor } = this;
    this.monitor = undefined;
    monitor?.close();
  }

  private heard({ vm, kind }: VmEvent): void {
    if (vm !== undefined && vm !== this.o.vm.name) return;
    // The mirror survives a reboot of the guest and a pause.
    if (kind === 'migrated' || kind === 'stopped' || kind === 'unknown') this.mayHaveLeft = true;
    if (kind === 'started' || kind === 'migrated') for (const disk of this.disks) disk.lose(`the VM ${kind}`);
    if (kind === 'stopped' || kind === 'crashed')
      for (const disk of this.disks) disk.lose(`the VM ${kind}`, { withVm: true });
    if (vm !== undefined) this.tell(`vm-${kind}`, {});
    this.inspectAtMs = -Infinity;
    this.kick();
  }

  private heardMonitor({ name, data }: MonitorEvent): void {
    // Words of jobs that end after it are of QEMU closing its disks. A guest that goes on after all takes it back.
    if (name === 'SHUTDOWN') this.shutdownSeen = true;
    if (name === 'RESET' || name === 'RESUME') this.shutdownSeen = false;
    if (name !== 'BLOCK_JOB_COMPLETED' && name !== 'BLOCK_JOB_CANCELLED' && name !== 'BLOCK_JOB_ERROR') return;
    const disk = this.disks.find(({ names }) => names.job === data['device']);
    const reason = typeof data['error'] === 'string' ? data['error'] : `its mirror has ended (${name})`;
    disk?.lose(reason, { withVm: this.shutdownSeen, failed: true });
    this.kick();
  }

  private failed(error: TidemarkError): number {
    const { code, message } = error;
    const refused = code === 'vm-refused' || code === 'disk-unknown' || code === 'vm-unknown';
    const known = this.failure?.code === code && this.failure.message === message;
    if (!known) {
      this.failure = { code, message, sinceMs: this.o.clock.wallMs() };
      this.tell('vm-attach-failed', { code, error: message });
    }
    this.enter(refused ? 'refused' : code === 'hypervisor-unreachable' ? 'searching' : 'waiting');
    if (refused) return refusedPollMs;
    const waitMs = this.backOffMs;
    this.backOffMs = Math.min(backOffMsMax, this.backOffMs * 2);
    return waitMs;
  }

  private enter(state: VmAttachState): void {
    if (this.state === state) return;
    this.state = state;
    if (state === 'attached') this.tell('vm-attached', { disks: this.disks.length });
  }

  private tell(code: string, fields: Readonly<Record<string, unknown>>): void {
    this.o.events.emit(code, { group: this.o.group.name, vm: this.o.vm.name, ...fields });
  }
}
