/** VMs of source groups as the API shows them. */
import type { VmAttachment } from '../attach/vm-attachment.js';
import { errorTable } from '../core/errors.js';
import type { GroupStatus, VmAttachmentView } from '../service/group-schemas.js';

export function vmView(attachment: VmAttachment): VmAttachmentView {
  const { vm, hypervisor, state, releasedUntilMs, failure, disks } = attachment;
  return {
    vm: vm.name,
    uuid: vm.uuid,
    hypervisor: hypervisor.name,
    state,
    releasedUntilMs: releasedUntilMs ?? null,
    lastError:
      failure === undefined
        ? null
        : { code: failure.code, message: failure.message, path: null, ...errorTable[failure.code] },
    disks: disks.map(({ name, target, attached, lastSync, returnsBy }) => ({
      disk: name,
      target,
      attached,
      sync: lastSync ?? null,
      returnsBy,
    })),
  };
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
