/** tidemark drill run | stop | list */
import type { Command } from 'commander';
import type { Operation } from '../../service/operation-schemas.js';
import { parseSelector } from '../../service/selector.js';
import type { ViewStatus } from '../../service/view-schemas.js';
import { numberOf } from '../arguments.js';
import { operationOptions, runOperation, withSession, type CliContext, type OperationOptions } from '../command.js';
import { formatTable, formatTime } from '../format.js';
import { atHelp } from './views.js';

interface RunOptions extends OperationOptions {
  at: string;
  keepMinutes: string;
  maxMinutes?: string;
  vm?: string[];
}

export function addDrillCommands(program: Command, context: CliContext): void {
  const drills = program
    .command('drill')
    .alias('drills')
    .description('boot the VMs of a checkpoint apart, and check them');
  operationOptions(
    drills
      .command('run')
      .argument('<group>')
      .description('boot, check, show evidence, leave nothing behind (exit code not 0 when a check failed)')
      .option('--at <checkpoint>', atHelp, 'latest')
      .option('--vm <name...>', 'only these VMs')
      .option('--keep-minutes <minutes>', 'how long the VMs stay after their checks', '0')
      .option('--max-minutes <minutes>', 'torn down after so long, whatever it is at; it has failed then'),
  ).action((group: string, options: RunOptions, command: Command) =>
    withSession(context, command, (session) =>
      runOperation(session, options, {
        kind: 'drill',
        group,
        arguments: {
          at: parseSelector(options.at, session.terminal.nowMs()),
          keepMinutes: numberOf(options.keepMinutes, 'keep-minutes'),
          ...(options.vm === undefined ? {} : { vms: options.vm }),
          ...(options.maxMinutes === undefined
            ? {}
            : { maxDurationMinutes: numberOf(options.maxMinutes, 'max-minutes') }),
        },
      }),
    ),
  );
  operationOptions(
    drills
      .command('stop')
      .argument('<drill>', 'operation id of the drill')
      .description('end a drill that runs or is kept'),
  ).action((drill: string, options: OperationOptions, command: Command) =>
    withSession(context, command, async (session) => {
      const { group } = await session.client.operation(drill);
      await runOperation(session, options, { kind: 'drill-stop', group, arguments: { drill } });
    }),
  );
  drills
    .command('list', { isDefault: true })
    .argument('[group]')
    .description('drills, newest first (default)')
    .action((group: string | undefined, _options, command: Command) =>
      withSession(context, command, async (session) => {
        const { operations } = await session.client.operations({
          kind: 'drill',
          ...(group === undefined ? {} : { group }),
        });
        const views = await session.client.views(group);
        session.print(operations, () => drillTable(operations, views));
      }),
    );
}

function drillTable(drills: readonly Operation[], views: readonly ViewStatus[]): string {
  if (drills.length === 0) return 'no drills\n';
  const standing = new Set(views.map(({ label }) => label));
  const rows = drills.map(({ id, group, state, startedMs, result }) => [
    id,
    group,
    state,
    typeof result?.['checkpoint'] === 'string' ? result['checkpoint'] : '-',
    formatTime(startedMs),
    standing.has(`drill ${id}`) ? 'yes' : 'no',
  ]);
  return formatTable(['DRILL', 'GROUP', 'STATE', 'CHECKPOINT', 'STARTED', 'STANDS'], rows);
}
