/** The VMs of source groups: which disks they bring into a group, and the attachments that keep these captured. */
import { createHash } from 'node:crypto';
import { AttachRecord } from '../attach/attach-record.js';
import { DiskAttachment } from '../attach/disk-attachment.js';
import { VmAttachment } from '../attach/vm-attachment.js';
import { VmDiskReader } from '../attach/vm-disk-reader.js';
import type { SourceGroup } from '../capture/source-group.js';
import type { SourceGroupConfig, SourceVmConfig } from '../config/schema-groups.js';
import type { HypervisorConfig } from '../config/schema-hypervisors.js';
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { AttachVerdict } from '../guard/attach-policy.js';
import type { Hypervisor, Vm, VmDisk } from '../hypervisor/hypervisor.js';
import { openHypervisor } from '../hypervisor/open-hypervisor.js';

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

/** A disk of a VM on its way into a group. */
export interface VmDiskPlan {
  readonly name: string;
  readonly sizeBytes: number;
  readonly exportName: string;
  readonly target: string;
  readonly reader: VmDiskReader;
  readonly vm: Pick<Vm, 'name' | 'uuid'>;
  readonly hypervisor: Hypervisor;
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

export class SourceVms {
  private readonly hypervisors: ReadonlyMap<string, { hypervisor: Hypervisor; socketDirectory: string }>;
  private kept: readonly Kept[] = [];

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

  /** The disks that the VMs of a group bring, as the hypervisor sees them now. Throws what names the VM or disk. */
  async plan(config: SourceGroupConfig): Promise<VmDiskPlan[]> {
    const plans: VmDiskPlan[] = [];
    for (const [index, selected] of config.vms.entries())
      await at(`vms[${index}]`, async () => {
        const hypervisor = this.hypervisor(selected.hypervisor);
        const vm = await at('vm', () => hypervisor.findVm(selected.vm));
        for (const disk of selectDisks(vm, selected)) {
          const plan = planOf(config.name, vm, disk, hypervisor);
          this.refuseTwice(config.name, plan, plans);
          plans.push(plan);
        }
      });
    return plans;
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
    const { options } = this;
    const { clock, random, events, storage, directory } = options;
    const vms = new Map(plans.map((plan) => [plan.vm.uuid, plan]));
    for (const { vm, hypervisor } of vms.values()) {
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
      const attachment = new VmAttachment({
        ...{ group, hypervisor, vm, record, clock, events },
        disks: plans.flatMap((plan, place) =>
          plan.vm.uuid === vm.uuid ? [attachmentOf(plan, firstIndex + place)] : [],
        ),
        selectsAll: config.vms.some((each) => (each.vm === vm.name || each.vm === vm.uuid) && each.disks === undefined),
        join: (disk) => {
          const plan = planOf(config.name, vm, disk, hypervisor);
          const { name, sizeBytes, reader } = plan;
          const index = group.addDisk({ name, sizeBytes, reader, attachedLater: true });
          host.open(plan, index);
          return attachmentOf(plan, index);
        },
        leave: async ({ index, name }) => {
          group.removeDisk(index);
          await host.close(`${config.name}/${name}`);
        },
        mayAttach: () => options.mayAttach(group.name),
      });
      this.kept = [...this.kept, { group: group.name, attachment }];
      attachment.start();
    }
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
    await Promise.all(this.of(group).map((attachment) => attachment.close()));
    this.kept = this.kept.filter((each) => each.group !== group);
  }

  /** Takes all mirrors away in order. */
  async close(): Promise<void> {
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

/** A group's name for a VM's disk: `VM-TARGET` in the letters that names may have. */
export function groupDiskName(vm: string, target: string): string {
  const text = `${vm}-${target}`.toLowerCase().replaceAll(/[^a-z0-9._-]+/g, '-');
  return text.replace(/^[^a-z0-9]+/, '').slice(0, 63);
}

function planOf(
  group: string,
  { name: vm, uuid }: Pick<Vm, 'name' | 'uuid'>,
  { target, sizeBytes }: VmDisk,
  hypervisor: Hypervisor,
): VmDiskPlan {
  const name = groupDiskName(vm, target);
  const reader = new VmDiskReader(name);
  return { name, sizeBytes, target, hypervisor, exportName: `${group}/${name}`, reader, vm: { name: vm, uuid } };
}

function selectDisks(vm: Vm, selected: SourceVmConfig): VmDisk[] {
  const chosen =
    selected.disks === undefined
      ? vm.disks.filter(({ refusal }) => refusal === undefined)
      : selected.disks.map((target, index) => findDisk(vm, target, index));
  const first = chosen[0];
  if (first === undefined)
    throw new TidemarkError(
      vm.state === 'off' ? 'illegal-state' : 'vm-refused',
      `VM ${vm.name} has no disk that can be captured${vm.state === 'off' ? ' while it is off' : ''}.`,
      { path: 'vm' },
    );
  for (const [index, { target, refusal, sizeBytes }] of chosen.entries()) {
    const where = { path: selected.disks === undefined ? 'vm' : `disks[${index}]` };
    if (refusal !== undefined)
      throw new TidemarkError('vm-refused', `Disk ${target} of ${vm.name} cannot be captured: ${refusal}.`, where);
    if (sizeBytes === 0)
      throw new TidemarkError(
        'illegal-state',
        `The size of ${target} of ${vm.name} is not known while it is off.`,
        where,
      );
  }
  return chosen;
}

function findDisk(vm: Vm, target: string, index: number): VmDisk {
  const found = vm.disks.find((disk) => disk.target === target);
  if (found !== undefined) return found;
  const known = vm.disks.map((disk) => disk.target).join(', ') || 'none';
  throw new TidemarkError('disk-unknown', `VM ${vm.name} has no disk ${target}; it has: ${known}.`, {
    path: `disks[${index}]`,
  });
}
