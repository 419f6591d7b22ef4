/** What every command gets, and how it ends. */
import { randomBytes } from 'node:crypto';
import type { Command } from 'commander';
import type { AgentClient } from '../client/agent-client.js';
import { TidemarkError } from '../core/errors.js';
import type { Operation, OperationRequest } from '../service/operation-schemas.js';
import { fromApiError } from '../service/error-schema.js';
import type { z } from 'zod';
import type { operationRequestSchema } from '../service/operation-schemas.js';
import { bootTable } from './boots.js';
import { connect, type GlobalOptions } from './context.js';
import { ProgressLine } from './progress.js';
import { coloursOf, type Colours, type Terminal } from './terminal.js';

export interface CliContext {
  readonly terminal: Terminal;
  readonly runAgent: (configFile: string) => Promise<void>;
  readonly version: string;
}

/** A command with an agent at the other end. */
export class Session {
  readonly terminal: Terminal;
  readonly json: boolean;
  readonly colours: Colours;
  readonly client: AgentClient;

  constructor(context: CliContext, command: Command) {
    const options = command.optsWithGlobals<GlobalOptions>();
    this.terminal = context.terminal;
    this.json = options.json === true;
    this.colours = coloursOf(context.terminal);
    this.client = connect(options, context.terminal.env);
  }

  /** JSON as it is with --json, otherwise the text. */
  print(value: unknown, text: () => string): void {
    this.terminal.out(this.json ? `${JSON.stringify(value, null, 2)}\n` : text());
  }

  /** The named group, or the only one. */
  async groupName(name: string | undefined): Promise<string> {
    if (name !== undefined) return name;
    const groups = await this.client.groups();
    if (groups.length === 1) return groups[0]!.name;
    const known = groups.map((group) => group.name).join(', ') || 'none';
    throw new TidemarkError('request-invalid', `name the group; the agent has: ${known}`, { path: 'group' });
  }
}

/** Runs `work` with a session that is closed afterwards. */
export async function withSession(
  context: CliContext,
  command: Command,
  work: (session: Session) => Promise<void>,
): Promise<void> {
  const session = new Session(context, command);
  try {
    await work(session);
  } finally {
    session.client.close();
  }
}

export interface OperationOptions {
  readonly id?: string;
  readonly wait?: boolean;
}

/** `--id` and `--no-wait`, the same for each command that starts an operation. */
export function operationOptions(command: Command): Command {
  return command
    .option('--id <id>', 'operation id: the same id again is the same operation (default: a new one)')
    .option('--no-wait', 'do not wait for the end');
}

/** Starts (or finds) the operation, waits with progress, prints the end. Throws its error when it failed. */
export async function runOperation(
  session: Session,
  options: OperationOptions,
  request: z.input<typeof operationRequestSchema>,
): Promise<void> {
  const id = options.id ?? `cli-${request.kind}-${randomBytes(6).toString('hex')}`;
  const started = await session.client.startOperation(id, request);
  const ended = options.wait === false ? started : await waitOperation(session, id);
  finishOperation(session, ended);
}

export async function waitOperation(session: Session, id: string): Promise<Operation> {
  const line = new ProgressLine(session.terminal);
  const show = (operation: Operation): void =>
    line.update(`${operation.kind} ${operation.group}: ${operation.step}`, operation.progress);
  try {
    return await session.client.waitOperation(id, show, session.terminal.signal);
  } catch (error) {
    if (session.terminal.signal.aborted)
      session.terminal.err(`\nstill running; wait for it with: tidemark operations wait ${id}\n`);
    throw error;
  } finally {
    line.end();
  }
}

export function finishOperation(session: Session, operation: Operation): void {
  session.print(
    operation,
    () =>
      `${operation.kind} of ${operation.group}: ${operation.state} (${operation.step}), operation ${operation.id}\n${resultLines(operation)}`,
  );
  if (operation.state === 'failed') {
    throw operation.error === null ? new Error(`operation ${operation.id} failed`) : fromApiError(operation.error);
  }
  if (operation.state === 'cancelled') throw new Error(`operation ${operation.id} was cancelled`);
}

function resultLines(operation: Operation): string {
  return Object.entries(operation.result ?? {})
    .map(
      ([name, value]) =>
        bootTable(value) ?? `  ${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}\n`,
    )
    .join('');
}

export type { OperationRequest };
