/**
 * A drill: its life is the resource's. The agent runs it, its timer and its tear-down, also with Pulumi gone. It runs once
 * for a request; a failed check fails the update after the tear-down, and the state is saved.
 */
import { z } from 'zod';
import { isTidemarkError, type AgentClient, type Operation } from '../agent-client.js';
import { parseSelector } from '../../agent/src/service/selector.js';
import { findAuthority } from './authority.js';
import { isKnown } from './check.js';
import { actionText } from './forecast-text.js';
import { recoveryDrillSchema, type RecoveryDrillInputs } from './inputs.js';
import { PartialFailure, type Call, type ResourceKind, type State } from './resource.js';
import { isUnreachable } from './sites.js';
import { failureText, operationId, progressText } from './transition.js';
import { unknown, type Properties } from './values.js';

const facts: Properties = {
  ...{ result: unknown, checkpointUsed: unknown, evidence: unknown, finishedAt: unknown },
  ...{ drivenBy: unknown, stale: unknown },
};

const recoveryDrillOutputsSchema = z.object({
  result: z.string().describe('running, passed, failed or cancelled'),
  checkpointUsed: z.string().describe('The checkpoint that was booted'),
  evidence: z.string().describe('Operation id at the agent, with each check and its time'),
  finishedAt: z.string().describe('ISO time; empty while it runs'),
  drivenBy: z.string(),
  stale: z.boolean().describe('The agent could not be asked; the rest is as it was'),
});

export const recoveryDrill: ResourceKind = {
  token: 'tidemark:index:RecoveryDrill',
  description: 'A test failover in an isolated network, run once for a request; the only way to drill',
  schema: recoveryDrillSchema,
  outputs: recoveryDrillOutputsSchema,

  check: (inputs, before) =>
    before === undefined || before['group'] === inputs['group']
      ? []
      : [{ property: 'group', reason: 'a drill is of one group; declare another resource for another group' }],

  async create(given, call) {
    if (!isKnown(given)) return { id: '', outputs: { ...given, ...facts } };
    const inputs = recoveryDrillSchema.parse(given);
    const id = `${inputs.target.api.replace(/\/$/, '')}/${inputs.group}/${operationId(inputs.group, inputs.request)}`;
    if (call.preview) return { id, outputs: await foreseen(given, inputs, call) };
    return { id, outputs: await perform(id, given, inputs, call) };
  },

  async update(id, before, given, call) {
    if (!isKnown(given)) return { ...given, ...facts };
    const inputs = recoveryDrillSchema.parse(given);
    if (before['request'] === inputs.request && before['result'] === 'passed')
      return { ...given, ...pickFacts(before) };
    if (call.preview) return foreseen(given, inputs, call);
    return perform(id, given, inputs, call);
  },

  async read(id, before, given, call) {
    const inputs = recoveryDrillSchema.safeParse(given ?? {});
    if (given === undefined || !inputs.success)
      throw new Error(`A drill cannot be imported; declare it with a new request (${id}).`);
    try {
      const client = await clientOf(inputs.data, call);
      const operation = await client.operation(operationId(inputs.data.group, inputs.data.request));
      return { state: { id, outputs: { ...given, ...outcome(operation) } }, inputs: given };
    } catch (error) {
      // The agent forgets an old operation; what it proved then stays proved.
      if (isTidemarkError(error, 'operation-unknown') || isTidemarkError(error, 'group-unknown'))
        return { state: { id, outputs: before }, inputs: given };
      if (!isUnreachable(error)) throw error;
      await call.tell.say('warning', `The last known state is shown: ${error.message} [${error.code}]`);
      return { state: { id, outputs: { ...before, stale: true } }, inputs: given };
    }
  },

  async delete(_id, before, call) {
    const inputs = before as unknown as RecoveryDrillInputs;
    const { group, request } = inputs;
    const drill = operationId(group, request);
    try {
      const client = await clientOf(inputs, call);
      await client.startOperation(`${drill}.stop`, { kind: 'drill-stop', group, arguments: { drill } });
      await client.waitOperation(`${drill}.stop`, () => undefined, call.signal);
    } catch (error) {
      if (isTidemarkError(error, 'operation-unknown') || isTidemarkError(error, 'group-unknown')) return;
      if (!isUnreachable(error)) throw error;
      await call.tell.say('warning', `The drill ends by its own timer: ${error.message} [${error.code}]`);
    }
  },
};

async function foreseen(given: Properties, inputs: RecoveryDrillInputs, call: Call): Promise<Properties> {
  const { group, request, checkpoint, vms, checks } = inputs;
  try {
    const client = await clientOf(inputs, call);
    const [{ site }, { action }] = await Promise.all([
      client.agent(),
      client.forecast(group, {
        action: 'drill',
        operation: operationId(group, request),
        at: parseSelector(checkpoint, Date.now()),
        ...(vms === undefined ? {} : { vms }),
        ...(checks === undefined ? {} : { checks }),
      }),
    ]);
    if (action !== null && !action.known) {
      await call.tell.say('info', actionText(action, { group, request, site }));
      const [refusal] = action.refusals;
      if (refusal !== undefined)
        throw new Error(`The drill would be refused now: ${refusal.message} [${refusal.code}] ${refusal.hint}`);
    }
  } catch (error) {
    // The group may come to be in the same update.
    if (!isTidemarkError(error, 'group-unknown') && !isUnreachable(error)) throw error;
    await call.tell.say('warning', `No forecast: ${error.message} [${error.code}]`);
  }
  return { ...given, ...facts };
}

async function perform(id: string, given: Properties, inputs: RecoveryDrillInputs, call: Call): Promise<Properties> {
  const client = await clientOf(inputs, call);
  const drill = operationId(inputs.group, inputs.request);
  await start(client, drill, inputs);
  const limit = AbortSignal.any([call.signal, AbortSignal.timeout(inputs.waitSeconds * 1000)]);
  let operation: Operation = await client.operation(drill);
  const state = (): State => ({ id, outputs: { ...given, ...outcome(operation) } });
  try {
    operation = await client.waitOperation(drill, (now) => call.tell.status(progressText(now)), limit);
  } catch (error) {
    throw new PartialFailure(state(), `The drill ${drill} goes on at its agent: ${(error as Error).message}`);
  }
  if (operation.state !== 'succeeded') throw new PartialFailure(state(), failureText(operation));
  return state().outputs;
}

/** The agent that holds the journal. */
async function clientOf({ group, target, source }: RecoveryDrillInputs, call: Call): Promise<AgentClient> {
  return (await findAuthority(call.sites, { name: group, target, source })).client;
}

async function start(client: AgentClient, drill: string, inputs: RecoveryDrillInputs): Promise<void> {
  try {
    // Whatever became of it, a request runs once.
    await client.operation(drill);
    return;
  } catch (error) {
    if (!isTidemarkError(error, 'operation-unknown')) throw error;
  }
  await client.startOperation(drill, {
    kind: 'drill',
    group: inputs.group,
    arguments: {
      at: parseSelector(inputs.checkpoint, Date.now()),
      keepMinutes: inputs.keepRunning ? inputs.maxDurationMinutes : 0,
      maxDurationMinutes: inputs.maxDurationMinutes,
      ...(inputs.checks === undefined ? {} : { checks: inputs.checks }),
      ...(inputs.vms === undefined ? {} : { vms: inputs.vms }),
    },
  });
}

function outcome({ id, state, result, drivenBy, finishedMs }: Operation): Properties {
  const results = { succeeded: 'passed', failed: 'failed', cancelled: 'cancelled', running: 'running' };
  const checkpoint = result?.['checkpoint'];
  return {
    result: results[state],
    checkpointUsed: typeof checkpoint === 'string' ? checkpoint : '',
    evidence: id,
    finishedAt: finishedMs === null ? '' : new Date(finishedMs).toISOString(),
    drivenBy,
    stale: false,
  };
}

function pickFacts({ result, checkpointUsed, evidence, finishedAt, drivenBy, stale }: Properties): Properties {
  return { result, checkpointUsed, evidence, finishedAt, drivenBy, stale };
}
