/** tidemark view open | close | list */
import { randomBytes } from 'node:crypto';
import type { Command } from 'commander';
import { TidemarkError } from '../../core/errors.js';
import { parseSelector } from '../../service/selector.js';
import { parseSize } from '../../service/sizes.js';
import type { ViewStatus } from '../../service/view-schemas.js';
import { withSession, type CliContext, type Session } from '../command.js';
import { formatBytes, formatTable, formatTime } from '../format.js';

export const atHelp = 'latest, latest-application, a checkpoint id, label:LABEL, an ISO time, or -15m';

interface OpenOptions {
  at: string;
  id?: string;
  drill?: boolean;
  scratch?: string;
  label?: string;
}

export function addViewCommands(program: Command, context: CliContext): void {
  const views = program.command('view').alias('views').description('open checkpoints as read-write NBD exports');
  views
    .command('open')
    .argument('<group>')
    .description('open a view')
    .option('--at <checkpoint>', atHelp, 'latest')
    .option('--id <id>', 'name of the view: the same again is the same view (default: a new one)')
    .option('--drill', 'for a drill, not for browsing')
    .option('--scratch <size>', "bound of its private writes, e.g. 20GiB (default: the group's)")
    .option('--label <label>', "a person's words")
    .action((group: string, options: OpenOptions, command: Command) =>
      withSession(context, command, (session) => open(session, group, options)),
    );
  views
    .command('close')
    .argument('<view>')
    .description('close a view and delete its private writes')
    .option('--group <group>', 'its group, when two have a view of that name')
    .option('--force', 'although clients are connected')
    .action((view: string, options: { group?: string; force?: boolean }, command: Command) =>
      withSession(context, command, (session) => close(session, view, options)),
    );
  views
    .command('list', { isDefault: true })
    .argument('[group]')
    .description('list the views (default)')
    .action((group: string | undefined, _options, command: Command) =>
      withSession(context, command, async (session) => {
        const list = await session.client.views(group);
        session.print(list, () => viewTable(list));
      }),
    );
}

async function open(session: Session, group: string, options: OpenOptions): Promise<void> {
  const scratch = options.scratch === undefined ? undefined : parseSize(options.scratch);
  if (options.scratch !== undefined && scratch === undefined)
    throw new TidemarkError('request-invalid', `--scratch is a size, not ${JSON.stringify(options.scratch)}`, {
      path: 'scratch',
    });
  const view = await session.client.openView(group, {
    id: options.id ?? `view-${randomBytes(4).toString('hex')}`,
    at: parseSelector(options.at, session.terminal.nowMs()),
    purpose: options.drill === true ? 'drill' : 'browse',
    ...(scratch === undefined ? {} : { scratchLimitBytes: scratch }),
    ...(options.label === undefined ? {} : { label: options.label }),
  });
  const disks = view.disks.map((disk) => `  ${disk.name}  ${disk.uri}\n`).join('');
  session.print(view, () => `view ${view.id} at ${view.checkpoint} ${formatTime(view.sourceTimeMs)}\n${disks}`);
}

async function close(session: Session, view: string, options: { group?: string; force?: boolean }): Promise<void> {
  const found = (await session.client.views(options.group)).filter((other) => other.id === view);
  if (found.length === 0) throw new TidemarkError('view-unknown', `no view ${view}`, { path: 'view' });
  if (found.length > 1)
    throw new TidemarkError('request-invalid', `${found.length} groups have a view ${view}; give --group`, {
      path: 'group',
    });
  await session.client.closeView(found[0]!.group, view, { force: options.force === true });
  session.print({ closed: view, group: found[0]!.group }, () => `closed ${view}\n`);
}

function viewTable(views: readonly ViewStatus[]): string {
  if (views.length === 0) return 'no views\n';
  const rows = views.map((view) => [
    view.id,
    view.group,
    view.checkpoint,
    formatTime(view.sourceTimeMs),
    view.purpose,
    formatBytes(view.scratchBytes),
    String(view.clientCount),
  ]);
  return formatTable(['VIEW', 'GROUP', 'CHECKPOINT', 'TIME', 'PURPOSE', 'SCRATCH', 'CLIENTS'], rows);
}
