/** The VMs of source groups: which disks they bring into a group, and the attachments that keep these captured. */
import { createHash } from 'node:crypto';
import { AttachRecord } from '../attach/attach-record.js';
import { DiskAttachment } from '../attach/disk-attachment.js';
import { VmArrival } from '../attach/vm-arrival.js';
import { VmAttachment } from '../attach/vm-attachment.js';
import type { SourceGroup } from '../capture/source-group.js';
import type { SourceGroupConfig, SourceVmConfig } from '../config/schema-groups.js';
import type { HypervisorConfig } from '../config/schema-hypervisors.js';
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { AttachVerdict } from '../guard/attach-policy.js';
import type { Hypervisor, Vm } from '../hypervisor/hypervisor.js';
import { openHypervisor } from '../hypervisor/open-hypervisor.js';
import { findHere, planOf, selectDisks, type VmDiskPlan } from './vm-plans.js';

export interface SourceVmsOptions {
  readonly agent: string;
  readonly hypervisors: readonly HypervisorConfig[];
  readonly storage: Storage;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
  /** Of attach records. */
  readonly directory: string;
  /** Where QEMU makes sockets, unless its hypervisor names another place. */
  readonly socketDirectory: string;
  /** Of the agent's own NBD server. */
  readonly captureSocket: string;
  readonly mayAttach: (group: string) => AttachVerdict;
  /** A person attaches: earlier let-goes count no more. */
  readonly attachAgain: (group: string) => Promise<void>;
  readonly clientCount: (exportName: string) => number;
}

/** The side of the exports: each disk of a VM has one. */
export interface VmDiskHost {
  open(plan: VmDiskPlan, index: number): void;
  close(exportName: string): Promise<void>;
}

interface Kept {
  readonly group: string;
  readonly attachment: VmAttachment;
}

/** VMs of a group: attached or to be attached, and those that may come from another host. */
export interface SeenVms {
  readonly here: readonly VmAttachment[];
  readonly elsewhere: readonly VmArrival[];
}

/** What an attachment is made in. */
interface Place {
  readonly group: SourceGroup;
  readonly host: VmDiskHost;
}

export class SourceVms {
  private readonly hypervisors: ReadonlyMap<string, { hypervisor: Hypervisor; socketDirectory: string }>;
  private kept: readonly Kept[] = [];
  /** VMs that may come from another host. */
  private awaited: readonly { readonly group: string; readonly arrival: VmArrival }[] = [];

  constructor(private readonly options: SourceVmsOptions) {
    this.hypervisors = new Map(
      options.hypervisors.map((config) => [
        config.name,
        {
          hypervisor: openHypervisor(config, options.clock),
          socketDirectory: config.socketDirectory ?? options.socketDirectory,
        },
      ]),
    );
  }

  /**
   * The disks that the VMs of a group bring, as the hypervisor sees them now; none of a VM that may be at another host and
   * does not run here. Throws what names the VM or disk.
   */
  async plan(config: SourceGroupConfig): Promise<VmDiskPlan[]> {
    const plans: VmDiskPlan[] = [];
    for (const [index, selected] of config.vms.entries())
      await at(`vms[${index}]`, async () => {
        const hypervisor = this.hypervisor(selected.hypervisor);
        if (selected.migrates && hypervisor.kind === 'qmp')
          throw new TidemarkError('config-invalid', 'A VM known by its monitor alone cannot be followed.', {
            path: 'migrates',
          });
        const vm = await at('vm', () => findHere(hypervisor, selected));
        if (vm !== undefined) this.planVm(config.name, vm, selected, hypervisor, plans);
      });
    return plans;
  }

  private planVm(group: string, vm: Vm, selected: SourceVmConfig, hypervisor: Hypervisor, plans: VmDiskPlan[]): void {
    for (const disk of selectDisks(vm, selected)) {
      const plan = planOf(group, vm, disk, hypervisor, selected);
      this.refuseTwice(group, plan, plans);
      plans.push(plan);
    }
  }

  /** QEMU has one mirror of a disk, and a disk has one order of its writes. */
  private refuseTwice(group: string, { vm, target, hypervisor, name }: VmDiskPlan, plans: readonly VmDiskPlan[]): void {
    const taken = this.protectedAs(hypervisor.name, vm.uuid, target);
    if (taken !== undefined && taken.group !== group)
      throw new TidemarkError(
        'vm-refused',
        `Disk ${target} of VM ${vm.name} is captured as ${taken.group}/${taken.disk} already; one group may have it.`,
        { path: 'vm' },
      );
    const same = plans.find((plan) => plan.name === name);
    if (same === undefined) return;
    const message =
      same.vm.uuid === vm.uuid && same.hypervisor === hypervisor
        ? `VM ${vm.name} is listed twice, by name and by UUID.`
        : `Disks of two VMs would both be named ${name}; rename a VM, or protect them in two groups.`;
    throw new TidemarkError('config-invalid', message, { path: 'vm' });
  }

  /** Keeps the planned disks attached from now on; `firstIndex`: of the first of them in the group. */
  async start(
    group: SourceGroup,
    config: SourceGroupConfig,
    plans: readonly VmDiskPlan[],
    firstIndex: number,
    host: VmDiskHost,
  ): Promise<void> {
    const place = { group, host };
    for (const selected of config.vms) {
      const here = plans.filter((plan) => plan.selected === selected);
      if (here.length > 0) await this.keep(place, here, (plan) => firstIndex + plans.indexOf(plan));
      else this.await(place, selected, () => true);
    }
  }

  /** Keeps the disks of one VM attached. `indexOf`: the place of a disk in the group; not called before all can succeed. */
  private async keep(
    { group, host }: Place,
    plans: readonly VmDiskPlan[],
    indexOf: (plan: VmDiskPlan) => number,
  ): Promise<void> {
    const { options } = this;
    const { clock, random, events, storage, directory } = options;
    const [first] = plans;
    if (first === undefined) return;
    const { vm, hypervisor, selected } = first;
    const id = createHash('sha256').update(`${group.name}/${hypervisor.name}/${vm.uuid}`).digest('hex').slice(0, 12);
    const record = new AttachRecord(storage, directory, `${id}.json`, `${group.name}/${vm.uuid}`);
    await record.load();
    const socketDirectory = this.hypervisors.get(hypervisor.name)?.socketDirectory ?? options.socketDirectory;
    const attachmentOf = ({ name, target, reader, exportName }: VmDiskPlan, index: number): DiskAttachment =>
      new DiskAttachment({
        ...{ group, record, clock, random, events, index, name, target, reader, exportName },
        captureSocket: options.captureSocket,
        clientCount: () => options.clientCount(exportName),
        readerSocket: `${socketDirectory}/vm-${id}.sock`,
      });
    const attachment: VmAttachment = new VmAttachment({
      ...{ group, hypervisor, vm, record, clock, events },
      disks: plans.map((plan) => attachmentOf(plan, indexOf(plan))),
      selectsAll: selected.disks === undefined,
      join: (disk) => {
        const plan = planOf(group.name, vm, disk, hypervisor, selected);
        return attachmentOf(plan, join({ group, host }, plan));
      },
      leave: async ({ index, name }) => {
        group.removeDisk(index);
        await host.close(`${group.name}/${name}`);
      },
      migration: !selected.migrates
        ? undefined
        : {
            giveUp: async ({ index, name }) => {
              group.leaveDisk(index);
              await host.close(`${group.name}/${name}`);
            },
            gone: () => {
              this.kept = this.kept.filter((each) => each.attachment !== attachment);
              this.await({ group, host }, selected, saidTo(group));
            },
          },
      mayAttach: () => options.mayAttach(group.name),
    });
    this.kept = [...this.kept, { group: group.name, attachment }];
    attachment.start();
  }

  /** Its disks join the group when it runs here. `isReady`: what it left behind when it was here before is durable. */
  private await(place: Place, selected: SourceVmConfig, isReady: () => boolean): void {
    const { clock, events } = this.options;
    const { group } = place;
    const hypervisor = this.hypervisor(selected.hypervisor);
    const arrival: VmArrival = new VmArrival({
      ...{ vm: selected.vm, hypervisor, clock, isReady },
      arrived: async (vm) => {
        const plans: VmDiskPlan[] = [];
        this.planVm(group.name, vm, selected, hypervisor, plans);
        await this.keep(place, plans, (plan) => join(place, plan));
        this.awaited = this.awaited.filter((each) => each.arrival !== arrival);
        events.emit('vm-arrived', { group: group.name, vm: vm.name });
      },
      failed: ({ code, message }) =>
        events.emit('vm-attach-failed', { group: group.name, vm: selected.vm, code, error: message }),
    });
    this.awaited = [...this.awaited, { group: group.name, arrival }];
    arrival.start();
  }

  /** As a person is shown them. */
  seen(group: string): SeenVms {
    return { here: this.of(group), elsewhere: this.elsewhere(group) };
  }

  private elsewhere(group: string): VmArrival[] {
    return this.awaited.filter((each) => each.group === group).map(({ arrival }) => arrival);
  }

  /** For the capture exports: clients of a disk came or went. */
  clientsChanged(group: string, disk: string, count: number): void {
    for (const attachment of this.of(group)) {
      const found = attachment.disks.find(({ name }) => name === disk);
      if (found !== undefined) attachment.clientsChanged(found, count);
    }
  }

  /** Something changed at the group's links: its VMs are looked at now. */
  kick(group: string): void {
    for (const attachment of this.of(group)) attachment.kick();
  }

  of(group: string): VmAttachment[] {
    return this.kept.filter((each) => each.group === group).map(({ attachment }) => attachment);
  }

  /** Every VM of every hypervisor, or of one; with what could not be asked. */
  async list(name?: string): Promise<{ hypervisor: Hypervisor; vms: Vm[]; failure: TidemarkError | undefined }[]> {
    if (name !== undefined) this.hypervisor(name);
    const chosen = [...this.hypervisors.values()].filter((each) => name === undefined || each.hypervisor.name === name);
    return Promise.all(
      chosen.map(async ({ hypervisor }) => {
        try {
          return { hypervisor, vms: await hypervisor.listVms(), failure: undefined };
        } catch (error) {
          if (!(error instanceof TidemarkError)) throw error;
          return { hypervisor, vms: [], failure: error };
        }
      }),
    );
  }

  /** Group and name of the disk that captures it; undefined: none. */
  protectedAs(hypervisor: string, uuid: string, target: string): { group: string; disk: string } | undefined {
    for (const { group, attachment } of this.kept) {
      if (attachment.hypervisor.name !== hypervisor || attachment.vm.uuid !== uuid) continue;
      const disk = attachment.disks.find((each) => each.target === target);
      if (disk !== undefined) return { group, disk: disk.name };
    }
    return undefined;
  }

  /** Lets the VM go until then (wall clock), in every group that has it; durable. Throws `vm-unknown`. */
  async release(vm: string, untilMs: number): Promise<VmAttachment[]> {
    const found = this.find(vm);
    for (const { attachment } of found) await attachment.release(untilMs);
    return found.map(({ attachment }) => attachment);
  }

  /** Attaches now, whatever a person or the guard's policy said before. Throws `vm-unknown`. */
  async attach(vm: string): Promise<VmAttachment[]> {
    const found = this.find(vm);
    for (const group of new Set(found.map((each) => each.group)))
      if (this.options.mayAttach(group).kind !== 'now') await this.options.attachAgain(group);
    for (const { attachment } of found) await attachment.release(undefined);
    return found.map(({ attachment }) => attachment);
  }

  /** Takes the group's mirrors away in order. */
  async closeGroup(group: string): Promise<void> {
    await Promise.all(this.elsewhere(group).map((arrival) => arrival.close()));
    this.awaited = this.awaited.filter((each) => each.group !== group);
    await Promise.all(this.of(group).map((attachment) => attachment.close()));
    this.kept = this.kept.filter((each) => each.group !== group);
  }

  /** Takes all mirrors away in order. */
  async close(): Promise<void> {
    await Promise.all(this.awaited.map(({ arrival }) => arrival.close()));
    this.awaited = [];
    await Promise.all(this.kept.map(({ attachment }) => attachment.close()));
    this.kept = [];
  }

  private find(vm: string): Kept[] {
    const found = this.kept.filter(({ attachment }) => attachment.vm.name === vm || attachment.vm.uuid === vm);
    if (found.length > 0) return found;
    throw new TidemarkError('vm-unknown', `No source group of this agent has a VM ${vm}.`, { path: 'vm' });
  }

  /** The one object for it: QEMU's monitors serve one client. Throws `request-invalid`. */
  hypervisor(name: string): Hypervisor {
    const found = this.hypervisors.get(name)?.hypervisor;
    if (found !== undefined) return found;
    throw new TidemarkError('request-invalid', `No hypervisor ${name} is configured.`, { path: 'hypervisor' });
  }
}

/** What is thrown inside names its property below `path`. */
async function at<T>(path: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!isTidemarkError(error)) throw error;
    const whole = error.path === undefined ? path : `${path}.${error.path}`;
    throw new TidemarkError(error.code, error.message, { path: whole, cause: error });
  }
}

/** Gives the disk its place in the group, and its export. */
function join({ group, host }: Place, plan: VmDiskPlan): number {
  const { name, sizeBytes, reader } = plan;
  const index = group.addDisk({ name, sizeBytes, reader, attachedLater: true });
  host.open(plan, index);
  return index;
}

/** True once every target has durably heard what was said until now: a disk that comes back would be taken for another. */
function saidTo(group: SourceGroup): () => boolean {
  const said = group.links.map((link) => ({ link, ...link.status }));
  return () =>
    said.every(({ link, incarnation, sequenceGiven }) => {
      const { status } = link;
      return status.incarnation !== incarnation || status.sequenceDurable >= sequenceGiven;
    });
}
