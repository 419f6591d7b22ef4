/** An application: VMs (or disks alone) that are protected together at a second site, and how they come back there. */
import * as pulumi from '@pulumi/pulumi';
import { SourceGroup, type Capture } from './appliance-resources.js';
import { captureOf, intervalOf, sizeOf, type FileDisk, type Size } from './capture.js';
import {
  ProtectionGroup,
  type DrilledApplication,
  type GroupPolicy,
  type Inputs,
  type ProtectionGroupArgs,
  type RecoveryRequest,
} from './resources.js';
import type { Site } from './site.js';
import { withoutTraces } from './without-traces.js';

type RecoverySettings = NonNullable<GroupPolicy['recovery']>;
type RecoveryVm = RecoverySettings['vms'][number];

export interface ApplicationVm extends Omit<RecoveryVm, 'vm'> {
  /** Name at the source hypervisor. */
  readonly name: string;
  /** Sizes of its disks by their targets, e.g. `{ vda: '20GiB' }`. */
  readonly disks: Readonly<Record<string, Size>>;
  /** Addresses while it runs at the source, for the output `addresses`. */
  readonly sourceAddresses?: readonly string[];
}

export interface ProtectedApplicationArgs {
  readonly source: Site;
  readonly target: Site;
  /** Name of the group at both agents. Default: the name of the resource. */
  readonly group?: string;
  readonly vms?: readonly ApplicationVm[];
  /** Disks without a VM, by name; with its file at the source when Pulumi declares what is captured there. */
  readonly disks?: Readonly<Record<string, Size | FileDisk>>;
  /** Seconds of data that may be lost while the link keeps up; a checkpoint is made twice as often. Default 10, least 2. */
  readonly rpoSeconds?: number;
  readonly history?: GroupPolicy['history'];
  /** Network of drills. Default `isolated`: one of its own that leads nowhere. */
  readonly testNetwork?: string;
  /** Hours after a failover until `afterwards` is done. Default 24. */
  readonly uncommittedHours?: number;
  readonly afterwards?: RecoverySettings['afterwards'];
  /** File at the target with the key that journal, replica and scratch are encrypted with. */
  readonly encryptionKeyFile?: string;
  /** A transition, from configuration: asked for by its request, run once. */
  readonly recovery?: Inputs<RecoveryRequest> | undefined;
  /** What happens to the VMs at the source when the target was failed over. Default `isolate`: off their networks. */
  readonly fencing?: 'isolate' | 'stop' | 'leave';
  /** Who says what is captured at the source. Default: `pulumi` when `source.connection` is given, else `file`. */
  readonly captureBy?: 'pulumi' | 'file';
  /** When a create is done. Default: declared at the target, and attached at a source that Pulumi declares. */
  readonly waitFor?: 'declared' | 'attached' | 'synced';
  readonly deletionGraceDays?: number;
  readonly forceDestroy?: boolean;
  /** How VMs come back at the source, once the group is reversed. Default: networks the other way round. */
  readonly home?: ProtectionGroupArgs['home'];
  /** How application checkpoints are made at the source, and when; see the hooks of a source group. */
  readonly hooks?: Capture['hooks'];
  /** For policy packs, beside the failure domains of the sites: `class`, `databases`. */
  readonly labels?: Readonly<Record<string, string>>;
}

export class ProtectedApplication extends pulumi.ComponentResource implements DrilledApplication {
  /** Site where it runs now: feed DNS and load balancers with it. */
  readonly activeSite: pulumi.Output<string>;
  /** Addresses of each VM where it runs now, as far as they are declared. */
  readonly addresses: pulumi.Output<Record<string, string[]>>;
  readonly state: pulumi.Output<string>;
  readonly lastOperation: pulumi.Output<string>;
  /** Name of the group at its agents, for drills and functions. */
  readonly group: string;
  readonly protection: ProtectionGroup;
  /** How the agents of both sites are reached. */
  readonly connections: DrilledApplication['connections'];
  /** Undefined: the source's own configuration file says what is captured. */
  readonly capture: SourceGroup | undefined;

  constructor(name: string, args: ProtectedApplicationArgs, options?: pulumi.ComponentResourceOptions) {
    super('tidemark:index:ProtectedApplication', name, {}, options);
    const { source, target, recovery, waitFor, deletionGraceDays, forceDestroy, home } = args;
    if (target.connection === undefined)
      throw new Error(
        `${name}: target.connection: the site ${target.site} holds the journal, so its agent must be reached`,
      );
    this.group = args.group ?? name;
    this.connections = { target: target.connection, ...defined({ source: source.connection }) };
    const capture = captureOf(name, args);
    const group: ProtectionGroupArgs = {
      name: this.group,
      ...this.connections,
      policy: policyOf(name, args),
      sourceSite: source.site,
      sourceAddresses: addressesOf(args.vms ?? []),
      // Before the source is declared there is nothing that it could wait for.
      ...defined({ recovery, waitFor: capture === undefined ? waitFor : undefined }),
      ...defined({ deletionGraceDays, forceDestroy, home, labels: labelsOf(args) }),
    };
    const ready = { dependsOn: [...source.ready, ...target.ready] };
    this.protection = withoutTraces(() => new ProtectionGroup(name, group, { ...target.childOptions(this), ...ready }));
    this.capture =
      capture === undefined
        ? undefined
        : withoutTraces(
            () =>
              new SourceGroup(
                name,
                { name: this.group, source: source.connection!, capture, ...defined({ waitFor }) },
                // A source finds its group at the target at once; and it goes first.
                { ...source.childOptions(this), dependsOn: [this.protection] },
              ),
          );
    ({ activeSite: this.activeSite, addresses: this.addresses } = this.protection);
    ({ state: this.state, lastOperation: this.lastOperation } = this.protection);
    withoutTraces(() =>
      this.registerOutputs({ activeSite: this.activeSite, addresses: this.addresses, state: this.state }),
    );
  }
}

function policyOf(name: string, args: ProtectedApplicationArgs): GroupPolicy {
  const { source, rpoSeconds, history, encryptionKeyFile, vms = [], disks = {} } = args;
  const ofVms = vms.flatMap((vm) =>
    Object.entries(vm.disks).map(([target, sizeBytes]): [string, Size] => [`${vm.name}-${target}`, sizeBytes]),
  );
  const all: [string, Size | FileDisk][] = [...Object.entries(disks), ...ofVms];
  return {
    streams: [source.agent],
    disks: all.map(([disk, how]) => ({ name: disk, sizeBytes: sizeOf(how), stream: source.agent })),
    checkpointIntervalSeconds: intervalOf(rpoSeconds),
    ...defined({ history, encryptionKeyFile }),
    ...(vms.length === 0 ? {} : { recovery: recoveryOf(name, args, vms) }),
  };
}

function recoveryOf(name: string, args: ProtectedApplicationArgs, vms: readonly ApplicationVm[]): RecoverySettings {
  const { target, testNetwork, uncommittedHours, afterwards, hooks } = args;
  if (target.hypervisor === undefined)
    throw new Error(`${name}: target.hypervisor: VMs come back on a hypervisor of ${target.site}; name it`);
  return {
    hypervisor: target.hypervisor,
    vms: vms.map(({ name: vm, disks: _disks, sourceAddresses: _addresses, ...settings }) => ({
      vm,
      ...defined({ hooks: hooks?.vms.find((hooked) => hooked.vm === vm)?.hooks }),
      ...settings,
    })),
    ...defined({ testNetwork, uncommittedHours, afterwards }),
  };
}

function addressesOf(vms: readonly ApplicationVm[]): Record<string, string[]> {
  const named = vms.filter(({ sourceAddresses }) => sourceAddresses !== undefined);
  return Object.fromEntries(named.map(({ name, sourceAddresses = [] }) => [name, [...sourceAddresses]]));
}

function labelsOf({ source, target, labels }: ProtectedApplicationArgs): Record<string, string> | undefined {
  const domains = defined({ sourceFailureDomain: source.failureDomain, targetFailureDomain: target.failureDomain });
  const all = { ...domains, ...labels } as Record<string, string>;
  return Object.keys(all).length === 0 ? undefined : all;
}

/** Without the properties that are undefined. */
function defined<T extends object>(values: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}
