/** What capture asks of a hypervisor: which VMs and disks there are, what happens to them, and a monitor for each VM. */
import type { VmDefinition } from './definition.js';
import type { GuestAgent } from './guest-agent.js';
import type { Monitor } from './monitor.js';

/** `paused`: its process exists, the guest does not run. */
export type VmState = 'running' | 'paused' | 'off';

/** A disk of a VM as the guest sees it. */
export interface VmDisk {
  /** Its name within the VM: libvirt's target (`vda`), or the id of its device or drive in QEMU. */
  readonly target: string;
  /** 0: unknown (the VM is off and its image cannot be read). */
  readonly sizeBytes: number;
  readonly format: string;
  /** File, device or URI. */
  readonly source: string;
  /** Why it cannot be captured; undefined: it can. */
  readonly refusal: string | undefined;
}

export interface Vm {
  readonly name: string;
  /** Of QEMU started without one: derived from the monitor's path. */
  readonly uuid: string;
  readonly state: VmState;
  /** It is off here because it was migrated to another host, as far as the hypervisor knows. */
  readonly movedAway: boolean;
  readonly disks: readonly VmDisk[];
}

/** Something about a VM or its disks may have changed: look again. */
export interface VmEvent {
  /** Name of the VM; undefined: any. */
  readonly vm: string | undefined;
  readonly kind:
    | 'started'
    | 'stopped'
    | 'crashed'
    | 'migrated'
    | 'rebooted'
    | 'paused'
    | 'resumed'
    | 'disk-added'
    | 'disk-removed'
    /** Events may have been missed: the connection to the hypervisor was lost, or is back. */
    | 'unknown';
}

export interface Hypervisor {
  /** Name in the configuration. */
  readonly name: string;
  readonly kind: 'libvirt' | 'qmp';
  /** All that is there, running or not. Throws `hypervisor-unreachable`. */
  listVms(): Promise<Vm[]>;
  /** The VM's guest agent; undefined: it cannot be reached through this hypervisor. The caller closes it. */
  guestAgent(vm: Pick<Vm, 'name' | 'uuid'>): GuestAgent | undefined;
  /** By name or UUID. Throws `vm-unknown`. */
  findVm(nameOrUuid: string): Promise<Vm>;
  /** Tells of changes until stopped; survives the hypervisor's restart. */
  watch(listener: (event: VmEvent) => void): () => void;
  /** Throws `illegal-state` when the VM does not run. The caller closes it. */
  monitor(vm: Pick<Vm, 'name' | 'uuid'>): Promise<Monitor>;
  /** The node in QEMU that the guest's device stands on, now. Throws `disk-unknown`. */
  findNode(vm: Pick<Vm, 'name' | 'uuid'>, target: string, monitor: Monitor): Promise<SourceNode>;
  /**
   * `disks`: which targets belong to the group, and their names there. `known`: the one before, whose firmware variables
   * stand in while their file is missing or empty. Throws `vm-refused`.
   */
  readDefinition(
    vm: Pick<Vm, 'name' | 'uuid'>,
    disks: VmDefinition['disks'],
    known?: VmDefinition,
  ): Promise<VmDefinition>;
  /** Tells of the same definition with what its files hold now, well within a second of each change, until stopped. */
  watchDefinition(definition: VmDefinition, changed: (definition: VmDefinition) => void): () => void;
  /** One that runs is not an error. Throws `vm-unknown`, and what the hypervisor refuses. */
  startVm(vm: Pick<Vm, 'name' | 'uuid'>): Promise<void>;
  /** Asks the guest to shut down; resolves true when it is off, false when it still runs after `graceMs`. */
  shutdownVm(vm: Pick<Vm, 'name' | 'uuid'>, graceMs: number): Promise<boolean>;
  /** Ends it at once. One that does not run is not an error. */
  destroyVm(vm: Pick<Vm, 'name' | 'uuid'>): Promise<void>;
}

export interface SourceNode {
  readonly nodeName: string;
  readonly sizeBytes: number;
}
