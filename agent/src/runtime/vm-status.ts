/** VMs of source groups as the API shows them. */
import type { VmArrival } from '../attach/vm-arrival.js';
import type { VmAttachment } from '../attach/vm-attachment.js';
import { errorTable, type ErrorCode } from '../core/errors.js';
import type { GroupStatus, VmAttachmentView } from '../service/group-schemas.js';
import type { VmList } from '../service/vm-schemas.js';
import type { SourceVms } from './source-vms.js';

export function vmView(attachment: VmAttachment): VmAttachmentView {
  const { vm, hypervisor, state, releasedUntilMs, failure, disks } = attachment;
  return {
    vm: vm.name,
    uuid: vm.uuid,
    hypervisor: hypervisor.name,
    state,
    releasedUntilMs: releasedUntilMs ?? null,
    lastError: failure === undefined ? null : apiErrorOf(failure.code, failure.message),
    disks: disks.map(({ name, target, attached, lastSync, returnsBy }) => ({
      disk: name,
      target,
      attached,
      sync: lastSync ?? null,
      returnsBy,
    })),
  };
}

/** A VM that does not run here, and may come. */
export function arrivalView({ vm, hypervisor, failure }: VmArrival): VmAttachmentView {
  const lastError = failure === undefined ? null : apiErrorOf(failure.code, failure.message);
  return { vm, uuid: '', hypervisor: hypervisor.name, state: 'elsewhere', releasedUntilMs: null, lastError, disks: [] };
}

/** One while the VM is not protected although it could be, or was let go. */
export function vmAlerts({ vm, failure, releasedUntilMs, state }: VmAttachment): GroupStatus['alerts'] {
  if (failure !== undefined)
    return [
      {
        code: failure.code,
        message: `VM ${vm.name}: ${failure.message}`,
        hint: errorTable[failure.code].hint,
        sinceMs: failure.sinceMs,
      },
    ];
  if (state !== 'released' || releasedUntilMs === undefined) return [];
  return [
    {
      code: 'vm-released',
      message: `VM ${vm.name} is let go until ${new Date(releasedUntilMs).toISOString()}: no new complete checkpoint.`,
      hint: `Attach it again with \`tidemark vm attach ${vm.name}\`.`,
      sinceMs: 0,
    },
  ];
}

/** Asks the hypervisors (one, or all); one that does not answer is named, the others are listed. */
export async function vmList(sources: SourceVms, name?: string): Promise<VmList> {
  const lists = await sources.list(name);
  return {
    vms: lists.flatMap(({ hypervisor, vms }) =>
      vms.map((vm) => ({
        ...{ hypervisor: hypervisor.name, name: vm.name, uuid: vm.uuid, state: vm.state },
        disks: vm.disks.map(({ target, sizeBytes, format, source, refusal }) => {
          const { group = null, disk = null } = sources.protectedAs(hypervisor.name, vm.uuid, target) ?? {};
          return { target, sizeBytes, format, source, refusal: refusal ?? null, group, disk };
        }),
      })),
    ),
    unreachable: lists.flatMap(({ hypervisor, failure }) =>
      failure === undefined ? [] : [{ hypervisor: hypervisor.name, error: apiErrorOf(failure.code, failure.message) }],
    ),
  };
}

function apiErrorOf(code: ErrorCode, message: string): NonNullable<VmAttachmentView['lastError']> {
  return { code, message, path: null, ...errorTable[code] };
}
