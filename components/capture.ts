/** What an application's source agent captures, when Pulumi declares it there. */
import type { Capture } from './appliance-resources.js';
import type { Site } from './site.js';

/** Size of a disk: bytes, or text like `20GiB`. */
export type Size = number | string;

/** A disk without a VM that the source agent serves, for whatever writes to it. */
export interface FileDisk {
  readonly size: Size;
  /** Raw file or block device at the source. */
  readonly file: string;
}

export interface Captured {
  readonly source: Site;
  readonly target: Site;
  readonly vms?: readonly { readonly name: string; readonly disks: Readonly<Record<string, Size>> }[];
  readonly disks?: Readonly<Record<string, Size | FileDisk>>;
  readonly rpoSeconds?: number;
  /** Who says what is captured at the source. Default: `pulumi` when `source.connection` is given, else `file`. */
  readonly captureBy?: 'pulumi' | 'file';
  /** What happens to the VMs at the source when the target was failed over. Default `isolate`: off their networks. */
  readonly fencing?: 'isolate' | 'stop' | 'leave';
  /** How application checkpoints are made. */
  readonly hooks?: Capture['hooks'];
}

export function sizeOf(disk: Size | FileDisk): Size {
  return typeof disk === 'object' ? disk.size : disk;
}

/** Undefined: the source's own configuration file says what is captured. */
export function captureOf(name: string, args: Captured): Capture | undefined {
  const { source, target, vms = [], disks = {}, rpoSeconds, fencing, hooks, captureBy = 'pulumi' } = args;
  if (source.connection === undefined || captureBy === 'file') {
    if (hooks === undefined) return undefined;
    throw new Error(
      `${name}: hooks: the file of ${source.agent} says what is captured there; its hooks stand there, too`,
    );
  }
  const { hypervisor } = source;
  if (vms.length > 0 && hypervisor === undefined)
    throw new Error(`${name}: source.hypervisor: the VMs run on a hypervisor of ${source.site}; name it`);
  return {
    targets: [{ peer: target.agent }],
    checkpointIntervalSeconds: intervalOf(rpoSeconds),
    ...(fencing === undefined ? {} : { fencing }),
    ...(hooks === undefined ? {} : { hooks }),
    vms: vms.map((vm) => ({ vm: vm.name, hypervisor: hypervisor!, disks: Object.keys(vm.disks) })),
    disks: Object.entries(disks).map(([disk, how]) => {
      if (typeof how !== 'object')
        throw new Error(`${name}: disks.${disk}: which file at ${source.site} it is: { size, file }`);
      return { kind: 'in-path' as const, name: disk, file: how.file, sizeBytes: how.size };
    }),
  };
}

/** A checkpoint is made twice as often as data may be lost. */
export function intervalOf(rpoSeconds = 10): number {
  return Math.max(1, rpoSeconds / 2);
}
