/**
 * Runs a transition that was asked for, once. Group and request are the operation id at the agent: one that is in the
 * group's operation log, or that this stack has run, is over, whatever the program says now.
 */
import { isTidemarkError, type AgentClient, type GroupStatus, type Operation } from '../agent-client.js';
import type { Forecast } from '../../agent/src/service/forecast-schemas.js';
import { parseSelector } from '../../agent/src/service/selector.js';
import { actionText, bytes, seconds } from './forecast-text.js';
import type { GroupFacts } from './group-outputs.js';
import type { ProtectionGroupInputs, RecoveryRequest } from './inputs.js';
import type { Call } from './resource.js';
import { isUnreachable } from './sites.js';

export interface Transition {
  readonly facts: Pick<GroupFacts, 'client' | 'other' | 'formerly'>;
  readonly group: string;
  /** Site of the agent that holds the journal: a failover goes there. */
  readonly site: string;
  /** Site to which a rollback or a reverse goes; undefined while it cannot be asked. */
  readonly home: string | undefined;
  readonly inputs: ProtectionGroupInputs;
  readonly recovery: RecoveryRequest;
}

export function operationId(group: string, request: string): string {
  return `${group}:${request}`;
}

/**
 * The operation when any agent of the group has ever started it; throws when the request named another action. One that
 * cannot be reached is left out: in a disaster only one answers.
 */
export async function findRun(
  clients: readonly (AgentClient | undefined)[],
  group: string,
  recovery: RecoveryRequest,
): Promise<Operation | undefined> {
  const id = operationId(group, recovery.request);
  for (const [index, client] of clients.entries()) {
    try {
      const operation = await client?.operation(id);
      if (operation === undefined) continue;
      if (operation.kind === recovery.action && operation.group === group) return operation;
      throw new Error(
        `recovery.request: ${recovery.request} was a ${operation.kind} of ${operation.group}; take a new request for a ${recovery.action}.`,
      );
    } catch (error) {
      if (isTidemarkError(error, 'operation-unknown') || (index > 0 && isUnreachable(error))) continue;
      throw error;
    }
  }
  return undefined;
}

/** What it would do now, said once; throws when it would be refused. */
export async function foresee(transition: Transition, call: Call): Promise<NonNullable<Forecast['action']>> {
  const { facts, group, site, recovery } = transition;
  refuseOtherSite(transition);
  const { action } = await facts.client.forecast(group, {
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
export async function run(transition: Transition, now: GroupStatus, call: Call): Promise<Operation> {
  const { facts, group, recovery } = transition;
  const { client, formerly } = facts;
  refuseOtherSite(transition);
  const id = operationId(group, recovery.request);
  const known = await findRun([client, formerly], group, recovery);
  // Over at an agent that is not asked any more.
  if (known !== undefined && known.state !== 'running') return known;
  if (known === undefined)
    await client.startOperation(id, {
      kind: recovery.action,
      group,
      expect: { epoch: now.epoch?.epoch ?? 0, policyRevision: now.policyRevision },
      arguments: argumentsOf(transition),
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

function refuseOtherSite({ recovery: { to, action }, site, home, group, facts }: Transition): void {
  const goesHome = action === 'rollback' || action === 'reverse';
  const where = goesHome ? home : site;
  if (to !== undefined && where !== undefined && to !== where)
    throw new Error(`recovery.to: a ${action} of ${group} goes to ${where} now, not to ${to}.`);
  if (action === 'reverse' && facts.other === undefined)
    throw new Error(`source: behind a reverse the agent there holds the journal of ${group}; name it first.`);
}

function argumentsOf({ recovery, inputs }: Transition): object {
  const { action, checkpoint, maxDataLossSeconds, sourceMayBeAlive } = recovery;
  switch (action) {
    case 'failover':
      return {
        at: parseSelector(checkpoint, Date.now()),
        sourceMayBeAlive,
        ...(maxDataLossSeconds === undefined ? {} : { maxDataLossSeconds }),
      };
    case 'move': {
      const { shutdownSeconds, forceOff, sourceStopped } = recovery;
      return { timeoutSeconds: shutdownSeconds, force: forceOff ? 'stop' : 'refuse', sourceStopped };
    }
    case 'reverse':
      return {
        discardSource: recovery.discardSource,
        keepOldDisksDays: inputs.deletionGraceDays,
        ...inputs.home,
      };
    case 'rollback':
    case 'commit':
      return {};
  }
}
