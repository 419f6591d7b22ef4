/**
 * Runs a transition that was asked for, once. Group and request are the operation id at the agent: one that is in the
 * group's operation log, or that this stack has run, is over, whatever the program says now.
 */
import { isTidemarkError, type AgentClient, type Operation } from '../agent-client.js';
import type { Forecast } from '../../agent/src/service/forecast-schemas.js';
import { parseSelector } from '../../agent/src/service/selector.js';
import { actionText, bytes, seconds } from './forecast-text.js';
import type { RecoveryRequest } from './inputs.js';
import type { Call } from './resource.js';

export interface Transition {
  readonly client: AgentClient;
  readonly group: string;
  readonly site: string;
  readonly recovery: RecoveryRequest;
}

export function operationId(group: string, request: string): string {
  return `${group}:${request}`;
}

/** The operation when it has ever been started; throws when the request named another action. */
export async function findRun(
  client: AgentClient,
  group: string,
  recovery: RecoveryRequest,
): Promise<Operation | undefined> {
  const id = operationId(group, recovery.request);
  try {
    const operation = await client.operation(id);
    if (operation.kind === recovery.action && operation.group === group) return operation;
    throw new Error(
      `recovery.request: ${recovery.request} was a ${operation.kind} of ${operation.group}; take a new request for a ${recovery.action}.`,
    );
  } catch (error) {
    if (isTidemarkError(error, 'operation-unknown')) return undefined;
    throw error;
  }
}

/** What it would do now, said once; throws when it would be refused. */
export async function foresee(transition: Transition, call: Call): Promise<NonNullable<Forecast['action']>> {
  const { client, group, site, recovery } = transition;
  refuseOtherSite(transition);
  const { action } = await client.forecast(group, {
    action: recovery.action,
    operation: operationId(group, recovery.request),
    at: parseSelector(recovery.checkpoint, Date.now()),
    sourceMayBeAlive: recovery.sourceMayBeAlive,
    ...(recovery.maxDataLossSeconds === undefined ? {} : { maxDataLossSeconds: recovery.maxDataLossSeconds }),
  });
  if (action === null) throw new Error(`The agent of ${group} gave no forecast.`);
  await call.tell.say('info', actionText(action, { group, request: recovery.request, site }));
  const [refusal] = action.refusals;
  if (refusal === undefined) return action;
  const legal = action.legalActions.join(', ') || 'none';
  const reasons = action.refusals.map(({ code, message }) => `${message} [${code}]`).join('\n');
  throw new Error(
    `recovery: ${recovery.action} would be refused now; nothing is changed.\n${reasons}\nLegal now: ${legal}. ${refusal.hint}`,
  );
}

/** Starts it, or joins the one that runs, and waits for its end. */
export async function run(transition: Transition, epoch: unknown, call: Call): Promise<Operation> {
  const { client, group, recovery } = transition;
  refuseOtherSite(transition);
  const id = operationId(group, recovery.request);
  if ((await findRun(client, group, recovery)) === undefined)
    await client.startOperation(id, {
      kind: recovery.action,
      group,
      ...(typeof epoch === 'number' ? { expect: { epoch } } : {}),
      arguments: argumentsOf(recovery),
    } as Parameters<AgentClient['startOperation']>[1]);
  return client.waitOperation(id, (operation) => call.tell.status(progressText(operation)), call.signal);
}

export function progressText({ kind, step, progress }: Operation): string {
  if (progress === null || progress.totalBytes === 0) return `${kind}: ${step}`;
  const percent = Math.floor((100 * progress.doneBytes) / progress.totalBytes);
  const left = progress.secondsLeft === null ? '' : `, ${seconds(progress.secondsLeft)} left`;
  return `${kind}: ${step}, ${percent} % of ${bytes(progress.totalBytes)}${left}`;
}

/** What was asked for and how it went, when it went wrong. */
export function failureText({ id, kind, error, state, step }: Operation): string {
  const reason = error === null ? `it ended at ${step}` : `${error.message} [${error.code}] ${error.hint}`;
  return `${kind} ${id} ${state}: ${reason}`;
}

function refuseOtherSite({ recovery, site, group }: Transition): void {
  if (recovery.to !== undefined && recovery.to !== site && recovery.action !== 'rollback')
    throw new Error(`recovery.to: ${group} goes to ${site}, the site of its target, not to ${recovery.to}.`);
}

function argumentsOf({ action, checkpoint, maxDataLossSeconds, sourceMayBeAlive }: RecoveryRequest): object {
  if (action !== 'failover') return {};
  return {
    at: parseSelector(checkpoint, Date.now()),
    sourceMayBeAlive,
    ...(maxDataLossSeconds === undefined ? {} : { maxDataLossSeconds }),
  };
}
