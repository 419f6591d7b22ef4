/** What recovery asks of a hypervisor. VMs are named by UUID; one that is not there is an error only where said. */
import type { OwnerMark } from './owner-mark.js';

/** `other`: in between (shutting down, crashed, suspended to RAM). */
export type VmState = 'absent' | 'off' | 'running' | 'paused' | 'other';

export interface OwnedVm {
  readonly uuid: string;
  readonly mark: OwnerMark;
}

/** A network as the hypervisor describes it, to prove that it leads nowhere. */
export interface NetworkFacts {
  /** Bridge of the host. */
  readonly bridge: string;
  /** `none`: nothing is forwarded. */
  readonly forward: string;
  /** Addresses that the host has in it. */
  readonly hostAddresses: readonly string[];
  /** Interfaces that are plugged into the bridge now. */
  readonly ports: readonly string[];
}

export interface CopyState {
  /** `none`: no copy runs on that disk. `ready`: both sides hold every write. */
  readonly state: 'none' | 'copying' | 'ready';
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface RecoveryDriver {
  /** Name in the configuration. */
  readonly name: string;
  /** Throws `hypervisor-unreachable`. */
  ping(): Promise<void>;

  /** Makes the VM known, or changes its definition. Persistent when it returns. */
  define(xml: string): Promise<void>;
  /** Starts the VM, or lets a paused one go on; a running one stays as it is. */
  start(uuid: string): Promise<void>;
  /** Ends the VM at once, without asking the guest; one that does not run is not an error. */
  stop(uuid: string): Promise<void>;
  /** Stops the VM and forgets it with its firmware variables; an absent one is not an error. */
  remove(uuid: string): Promise<void>;
  state(uuid: string): Promise<VmState>;
  /** UUIDs of VMs that an I/O error stopped. */
  stoppedByError(): Promise<string[]>;
  /** VMs that carry a mark of this agent and group. */
  owned(group: string): Promise<OwnedVm[]>;
  /** Takes the mark away: the VM is nobody's but its owner's from now on. */
  disown(uuid: string): Promise<void>;
  /** Its XML; `saved`: what it starts with next time. Throws `vm-unknown`. */
  definition(uuid: string, which: 'live' | 'saved'): Promise<string>;
  /** Names of the taps of a running VM, in NIC order. */
  taps(uuid: string): Promise<string[]>;

  /** One command to the guest agent, its `return` value. Throws `guest-agent` when it does not answer in time. */
  agent(uuid: string, command: string, args: Readonly<Record<string, unknown>>, timeoutMs: number): Promise<unknown>;

  /** `NAME`: a network of the hypervisor; `bridge:NAME`: a bridge of the host. */
  hasNetwork(name: string): Promise<boolean>;
  /** A network without forwarding and without an address of the host. Idempotent. Throws `network-refused`. */
  createIsolatedNetwork(name: string): Promise<void>;
  networkFacts(name: string): Promise<NetworkFacts>;
  /** An absent one is not an error. */
  removeNetwork(name: string): Promise<void>;
  /** Networks whose names begin so. */
  networks(prefix: string): Promise<string[]>;

  /** Begins to copy a disk of a running VM to a new raw file; every write goes to both sides. */
  startCopy(uuid: string, target: string, path: string): Promise<void>;
  copyState(uuid: string, target: string): Promise<CopyState>;
  /** The VM runs on the copy from now on. */
  pivotCopy(uuid: string, target: string): Promise<void>;
  /** The VM stands still for the moment; it runs on where it was. No copy is not an error. */
  abortCopy(uuid: string, target: string): Promise<void>;
}
