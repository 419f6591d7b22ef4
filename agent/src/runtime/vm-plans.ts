/** Which disks of a VM a group takes, by what its configuration selects and the hypervisor shows. */
import type { SourceVmConfig } from '../config/schema-groups.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { VmDiskReader } from '../attach/vm-disk-reader.js';
import type { Hypervisor, Vm, VmDisk } from '../hypervisor/hypervisor.js';

/** A disk of a VM on its way into a group. */
export interface VmDiskPlan {
  readonly name: string;
  readonly sizeBytes: number;
  readonly exportName: string;
  readonly target: string;
  readonly reader: VmDiskReader;
  readonly vm: Pick<Vm, 'name' | 'uuid'>;
  readonly hypervisor: Hypervisor;
  /** The entry of the configuration that names its VM. */
  readonly selected: SourceVmConfig;
}

/** Undefined: it may be at another host, and does not run here. */
export async function findHere(hypervisor: Hypervisor, { vm, migrates }: SourceVmConfig): Promise<Vm | undefined> {
  try {
    const found = await hypervisor.findVm(vm);
    return migrates && found.state !== 'running' ? undefined : found;
  } catch (error) {
    if (migrates && isTidemarkError(error, 'vm-unknown')) return undefined;
    throw error;
  }
}

/** A group's name for a VM's disk: `VM-TARGET` in the letters that names may have. */
export function groupDiskName(vm: string, target: string): string {
  const text = `${vm}-${target}`.toLowerCase().replaceAll(/[^a-z0-9._-]+/g, '-');
  return text.replace(/^[^a-z0-9]+/, '').slice(0, 63);
}

export function planOf(
  group: string,
  { name: vm, uuid }: Pick<Vm, 'name' | 'uuid'>,
  { target, sizeBytes }: VmDisk,
  hypervisor: Hypervisor,
  selected: SourceVmConfig,
): VmDiskPlan {
  const name = groupDiskName(vm, target);
  const reader = new VmDiskReader(name);
  const exportName = `${group}/${name}`;
  return { name, sizeBytes, target, hypervisor, selected, exportName, reader, vm: { name: vm, uuid } };
}

export function selectDisks(vm: Vm, selected: SourceVmConfig): VmDisk[] {
  const chosen =
    selected.disks === undefined
      ? vm.disks.filter(({ refusal }) => refusal === undefined)
      : selected.disks.map((target, index) => findDisk(vm, target, index));
  const first = chosen[0];
  if (first === undefined)
    throw new TidemarkError(
      vm.state === 'off' ? 'illegal-state' : 'vm-refused',
      `VM ${vm.name} has no disk that can be captured${vm.state === 'off' ? ' while it is off' : ''}${whyOf(vm)}.`,
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

function whyOf({ disks }: Vm): string {
  const reasons = disks.map(({ target, refusal }) => `${target}: ${refusal ?? 'not known'}`);
  return reasons.length === 0 ? '' : ` (${reasons.join('; ')})`;
}
