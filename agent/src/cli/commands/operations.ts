/** tidemark operations list | show | wait | cancel, events */
import type { Command } from 'commander';
import type { AgentEvent } from '../../service/event-schemas.js';
import type { Operation } from '../../service/operation-schemas.js';
import { finishOperation, waitOperation, withSession, type CliContext, type Session } from '../command.js';
import { formatTable, formatTime, oneLine } from '../format.js';

export function addOperationCommands(program: Command, context: CliContext): void {
  const operations = program.command('operations').alias('operation').description('list, watch and cancel operations');
  operations
    .command('list', { isDefault: true })
    .option('--group <group>', 'only of this group')
    .option('--state <state>', 'running, succeeded, failed or cancelled')
    .description('list, newest first (default)')
    .action((options: { group?: string; state?: string }, command: Command) =>
      withSession(context, command, async (session) => {
        const page = await session.client.operations(options);
        session.print(page.operations, () => operationTable(page.operations));
      }),
    );
  operations
    .command('show')
    .argument('<id>')
    .description('one operation, all that is known')
    .action((id: string, _options, command: Command) =>
      withSession(context, command, async (session) => {
        session.terminal.out(`${JSON.stringify(await session.client.operation(id), null, 2)}\n`);
      }),
    );
  operations
    .command('wait')
    .argument('<id>')
    .description('wait for its end')
    .action((id: string, _options, command: Command) =>
      withSession(context, command, async (session) => finishOperation(session, await waitOperation(session, id))),
    );
  operations
    .command('cancel')
    .argument('<id>')
    .description('ask it to stop where it safely can')
    .action((id: string, _options, command: Command) =>
      withSession(context, command, async (session) => {
        const operation = await session.client.cancelOperation(id);
        session.print(operation, () => `${operation.id}: ${operation.state} (${operation.step})\n`);
      }),
    );
  program
    .command('events')
    .option('--follow', 'go on until interrupted')
    .option('--limit <count>', 'the newest so many', '50')
    .description('what happened')
    .action((options: { follow?: boolean; limit: string }, command: Command) =>
      withSession(context, command, (session) => showEvents(session, options)),
    );
}

async function showEvents(session: Session, options: { follow?: boolean; limit: string }): Promise<void> {
  const countMax = Math.max(1, Number(options.limit) || 50);
  let newest: AgentEvent[] = [];
  let page = await session.client.events({ limit: 1000 });
  while (page.events.length > 0) {
    newest = [...newest, ...page.events].slice(-countMax);
    page = await session.client.events({ limit: 1000, after: page.next, boot: page.boot });
  }
  if (options.follow !== true)
    return session.print(newest, () => newest.map((event) => eventLine(session, event)).join(''));
  show(session, newest);
  try {
    for (;;) {
      page = await session.client.events(
        { after: page.next, boot: page.boot, waitSeconds: 25 },
        session.terminal.signal,
      );
      show(session, page.events);
    }
  } catch (error) {
    if (!session.terminal.signal.aborted) throw error;
  }
}

/** With --json one object a line, so that a pipe can read along. */
function show(session: Session, events: readonly AgentEvent[]): void {
  for (const event of events)
    session.terminal.out(session.json ? `${JSON.stringify(event)}\n` : eventLine(session, event));
}

function eventLine(session: Session, event: AgentEvent): string {
  const { red, yellow, dim } = session.colours;
  const paint =
    event.severity === 'error' ? red : event.severity === 'warning' ? yellow : (text: string): string => text;
  return `${dim(formatTime(event.timeMs))} ${paint(event.code)} ${event.group === null ? '' : `${event.group}: `}${oneLine(event.message)}\n`;
}

function operationTable(operations: readonly Operation[]): string {
  if (operations.length === 0) return 'no operations\n';
  const rows = operations.map((operation) => [
    operation.id,
    operation.group,
    operation.kind,
    operation.state,
    operation.step,
    formatTime(operation.startedMs),
  ]);
  return formatTable(['OPERATION', 'GROUP', 'KIND', 'STATE', 'STEP', 'STARTED'], rows);
}
