/** tidemark vm list | release | attach */
import type { Command } from 'commander';
import { TidemarkError } from '../../core/errors.js';
import type { VmAttachmentView } from '../../service/group-schemas.js';
import type { VmList, VmView } from '../../service/vm-schemas.js';
import { withSession, type CliContext } from '../command.js';
import { formatBytes, formatTable, formatTime, oneLine } from '../format.js';

const unitSeconds: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** Returns `vm`, for other commands about VMs. */
export function addVmCommands(program: Command, context: CliContext): Command {
  const vms = program.command('vm').alias('vms').description('VMs of the hypervisors, protected or not');
  vms
    .command('list', { isDefault: true })
    .argument('[hypervisor]')
    .description('list VMs and their disks (default)')
    .action((hypervisor: string | undefined, _options, command: Command) =>
      withSession(context, command, async (session) => {
        const list = await session.client.vms(hypervisor);
        session.print(list, () => vmTable(list));
      }),
    );
  vms
    .command('release')
    .argument('<vm>', 'name or UUID')
    .description('let a VM go: migrate, snapshot or resize it; then it is attached again')
    .requiredOption('--for <time>', 'then the agent attaches it again, e.g. 30m, 2h')
    .action((vm: string, options: { for: string }, command: Command) =>
      withSession(context, command, async (session) => {
        const list = await session.client.releaseVm(vm, { forSeconds: parseSeconds(options.for) });
        session.print(list, () => attachments(list));
      }),
    );
  vms
    .command('attach')
    .argument('<vm>', 'name or UUID')
    .description('attach a released VM now, or one that was let go because the agent hung')
    .action((vm: string, _options, command: Command) =>
      withSession(context, command, async (session) => {
        const list = await session.client.attachVm(vm);
        session.print(list, () => attachments(list));
      }),
    );
  return vms;
}

function parseSeconds(text: string): number {
  const [, count = '', unit = ''] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  if (count === '')
    throw new TidemarkError('request-invalid', `--for is a time like 30m or 2h, not ${JSON.stringify(text)}`, {
      path: 'for',
    });
  return Number(count) * (unitSeconds[unit] ?? 1);
}

function vmTable({ vms, unreachable }: VmList): string {
  const lost = unreachable.map(({ hypervisor, error }) => `${hypervisor}: ${oneLine(error.message)}\n`).join('');
  if (vms.length === 0) return `${lost}no VMs\n`;
  return lost + formatTable(['VM', 'HYPERVISOR', 'STATE', 'DISK', 'SIZE', 'CAPTURE'], vms.flatMap(rowsOf));
}

function rowsOf({ name, hypervisor, state, disks }: VmView): string[][] {
  const head = [name, hypervisor, state];
  if (disks.length === 0) return [[...head, '-', '-', '-']];
  return disks.map((disk, index) => [
    ...(index === 0 ? head : ['', '', '']),
    disk.target,
    disk.sizeBytes === 0 ? '-' : formatBytes(disk.sizeBytes),
    disk.group === null ? (disk.refusal === null ? 'can be' : `no: ${disk.refusal}`) : `${disk.group}/${disk.disk}`,
  ]);
}

function attachments(list: readonly VmAttachmentView[]): string {
  return list
    .map(({ vm, state, releasedUntilMs }) =>
      releasedUntilMs === null ? `${vm}: ${state}\n` : `${vm}: released until ${formatTime(releasedUntilMs)}\n`,
    )
    .join('');
}
