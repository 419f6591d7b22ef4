/** The guests that a group's hooks are declared for, as their VMs are attached now. */
import type { VmAttachment } from '../attach/vm-attachment.js';
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { GuestAgentSession } from '../hooks/guest-agent-session.js';
import { unprotectedPaths } from '../hooks/guest-paths.js';
import type { HookedGuest } from '../hooks/held-vm.js';
import type { HookedVm, Hooks } from '../hooks/settings.js';
import { SshSession } from '../hooks/ssh-session.js';

/** What no guest keeps data on. */
const noData = /^(a cdrom|a floppy|an empty drive|read-only)$/;

/** Throws `vm-unknown` for a VM that the group has not here, `hook-failed` for one that does not run. */
export function hookedGuests(hooks: Hooks, attachments: readonly VmAttachment[], clock: Clock): HookedGuest[] {
  return hooks.vms.map((hooked, index) => {
    const found = attachments.find(({ vm }) => vm.name === hooked.vm || vm.uuid === hooked.vm);
    if (found === undefined)
      throw new TidemarkError('vm-unknown', `VM ${hooked.vm} is not attached here; its hooks cannot run.`, {
        path: `hooks.vms[${index}].vm`,
      });
    return guestOf(hooked, found, clock);
  });
}

function guestOf({ tier, hooks, ssh }: HookedVm, attachment: VmAttachment, clock: Clock): HookedGuest {
  const { vm, hypervisor } = attachment;
  const agent = hypervisor.guestAgent(vm);
  const session = ssh === undefined ? undefined : new SshSession(ssh, clock);
  if (agent === undefined && session === undefined)
    throw new TidemarkError(
      'hook-failed',
      `Hypervisor ${hypervisor.name} does not reach the guest agent of ${vm.name}.`,
    );
  const guest = session ?? new GuestAgentSession(agent!, clock);
  return {
    ...{ vm: vm.name, tier, settings: hooks, guest, agent },
    close: () => {
      agent?.close();
      session?.close();
    },
    unprotected: async (paths) => {
      const captured = new Set(attachment.disks.map(({ target }) => target));
      const { disks } = await hypervisor.findVm(hypervisor.kind === 'qmp' ? vm.name : vm.uuid);
      const others = disks.filter(({ target, refusal }) => !captured.has(target) && !noData.test(refusal ?? ''));
      return unprotectedPaths(
        guest,
        paths,
        others.map(({ target }) => target),
      );
    },
  };
}
