/**
 * A protection group at its target agent. Never replaced: journal and replica are what it is. Every change says which
 * epoch and policy revision it was computed from, and the agent refuses a stale one.
 */
import { transitions } from '../../agent/src/target/state-machine.js';
import { isTidemarkError, TidemarkError, type AgentClient } from '../agent-client.js';
import { policyText, bytes } from './forecast-text.js';
import {
  groupOutputs,
  liveAddresses,
  plannedOutputs,
  protectionGroupOutputsSchema,
  readFacts,
  requestsOf,
  sourceSite,
  unknownFacts,
  type GroupFacts,
} from './group-outputs.js';
import { isKnown } from './check.js';
import { protectionGroupSchema, type GroupPolicyInput, type ProtectionGroupInputs } from './inputs.js';
import { PartialFailure, type Call, type ResourceKind, type State } from './resource.js';
import { isUnreachable } from './sites.js';
import { failureText, findRun, foresee, run, type Transition } from './transition.js';
import { unknown, type Properties } from './values.js';
import { newOwner, renamed, urnOf } from './owner.js';
import { pause } from './pause.js';

export const protectionGroup: ResourceKind = {
  token: 'tidemark:index:ProtectionGroup',
  description: 'A consistency group protected at a target site. Never replaced: it holds journal and replica',
  schema: protectionGroupSchema,
  outputs: protectionGroupOutputsSchema,

  check: (inputs, before) => {
    const moved = before !== undefined && before['name'] !== inputs['name'];
    return moved
      ? [
          {
            property: 'name',
            reason: `the group ${String(before['name'])} holds data and is never replaced; declare another resource for another group`,
          },
        ]
      : [];
  },

  /** Renamed with an alias, or imported: the group must learn who its owner is now. */
  changes: (urn, outputs) =>
    new Map(typeof outputs['owner'] === 'string' && urnOf(outputs['owner']) !== urn ? [['owner', 'update']] : []),

  async create(given, call) {
    if (!isKnown(given)) return { id: '', outputs: { ...given, ...unknownFacts } };
    const inputs = protectionGroupSchema.parse(given);
    const { name, recovery } = inputs;
    const id = idOf(inputs);
    if (call.existed)
      throw new Error(
        `Group ${name} holds data and is never replaced; it stays as it is. Run the update without --replace.`,
      );
    const client = call.sites.client(inputs.target);
    const known = await ownGroup(client, inputs, call);
    if (call.preview) return { id, outputs: await plannedCreate(client, inputs, given, known !== undefined, call) };
    await refuseTransition(client, inputs);
    await client.declareGroup(name, {
      spec: specOf(given),
      owner: newOwner(call.urn),
      ...(known === undefined ? {} : { previousOwner: known }),
    });
    const ran = recovery === undefined ? [] : [recovery.request];
    const state = async (): Promise<State> => ({
      id,
      outputs: groupOutputs(inputs, given, await readFacts(client, name), {}, ran),
    });
    try {
      await waitUntil(client, inputs, call);
    } catch (error) {
      throw new PartialFailure(await state(), (error as Error).message);
    }
    return state();
  },

  async update(id, before, given, call) {
    if (!isKnown(given)) return { ...given, ...unknownFacts };
    const inputs = protectionGroupSchema.parse(given);
    const { name, recovery } = inputs;
    const client = call.sites.client(inputs.target);
    const facts = await readFacts(client, name);
    const found = recovery === undefined ? undefined : await findRun(client, name, recovery);
    const transition: Transition | undefined =
      recovery === undefined || requestsOf(before).includes(recovery.request)
        ? undefined
        : { client, group: name, site: facts.site, recovery };
    const known = transition === undefined ? undefined : found;
    // What an interrupted update of ours did is not somebody else's change.
    if (known === undefined || facts.last?.id !== known.id) refuseStale(before, facts);
    const { policy } = await client.forecast(name, { spec: specOf(given) });
    const [refusal] = policy?.refusals ?? [];
    if (refusal !== undefined)
      throw new Error(`policy.${refusal.path ?? ''}: ${refusal.message} A group that holds data is never replaced.`);
    const owner = renamed(String(before['owner'] ?? ''), call.urn);
    const declares = policy?.changes === true || facts.status.owner !== owner;
    if (call.preview) {
      if (policy?.changes === true) await call.tell.say('info', policyText(name, facts.status.policyRevision, policy));
      const pending = transition !== undefined && known === undefined ? transition : undefined;
      const forecast = pending === undefined ? undefined : await foresee(pending, call);
      const outputs = groupOutputs(inputs, given, facts, before);
      return {
        ...outputs,
        ...(declares ? { policyRevision: unknown, owner } : {}),
        ...(forecast === undefined ? {} : predicted(pending!, inputs)),
      };
    }
    if (declares) {
      const { epoch, policyRevision } = facts.status;
      await client.declareGroup(name, {
        spec: specOf(given),
        owner,
        ...(facts.status.owner === null ? {} : { previousOwner: String(before['owner'] ?? '') || facts.status.owner }),
        expect: { epoch: epoch?.epoch ?? 0, policyRevision },
      });
    }
    if (transition === undefined) return groupOutputs(inputs, given, await readFacts(client, name), before);
    try {
      if (known !== undefined && known.state !== 'running')
        return groupOutputs(inputs, given, await readFacts(client, name), before, [transition.recovery.request]);
      const operation = await run(transition, facts.status.epoch?.epoch, call);
      const outputs = groupOutputs(inputs, given, await readFacts(client, name), before, [transition.recovery.request]);
      if (operation.state === 'succeeded') return outputs;
      throw new PartialFailure({ id, outputs }, failureText(operation));
    } catch (error) {
      if (error instanceof PartialFailure || !declares) throw error;
      // The policy is in force: a state that says otherwise would be stale.
      const outputs = groupOutputs(inputs, given, await readFacts(client, name), before);
      throw new PartialFailure({ id, outputs }, (error as Error).message);
    }
  },

  async read(id, before, given, call) {
    if (given === undefined) return importGroup(id, call);
    const inputs = protectionGroupSchema.safeParse(given);
    // Inputs of another version of the package: what they mean is for the next update.
    if (!inputs.success) return { state: { id, outputs: before }, inputs: given };
    try {
      const facts = await readFacts(call.sites.client(inputs.data.target), inputs.data.name);
      return { state: { id, outputs: groupOutputs(inputs.data, given, facts, before) }, inputs: given };
    } catch (error) {
      if (isTidemarkError(error, 'group-unknown')) return undefined;
      if (!isUnreachable(error)) throw error;
      await call.tell.say('warning', `The last known state is shown: ${error.message} [${error.code}]`);
      return { state: { id, outputs: { ...before, stale: true } }, inputs: given };
    }
  },

  async delete(_id, before, call) {
    const { name, target, deletionGraceDays, forceDestroy } = protectionGroupSchema
      .pick({ name: true, target: true, deletionGraceDays: true, forceDestroy: true })
      .parse({ ...pick(before, ['name', 'target', 'deletionGraceDays', 'forceDestroy']) });
    const { owner, epoch, policyRevision } = before;
    try {
      const client = call.sites.client(target);
      if (await wasReplaced(client, name, owner)) {
        await call.tell.say('info', `Group ${name} stays: the same resource has declared it anew.`);
        return;
      }
      await client.removeGroup(name, {
        ...(typeof owner === 'string' && owner !== '' ? { owner } : {}),
        ...(typeof epoch === 'number' ? { epoch } : {}),
        ...(typeof policyRevision === 'number' ? { policyRevision } : {}),
        graceDays: forceDestroy ? 0 : deletionGraceDays,
      });
    } catch (error) {
      if (isTidemarkError(error, 'group-unknown')) return;
      if (!isUnreachable(error)) throw error;
      if (!forceDestroy)
        throw new TidemarkError(
          error.code,
          `${error.message}; group ${name} may still protect. When the site is gone for good: set forceDestroy, run an update, then destroy again; or pulumi state delete.`,
        );
      await call.tell.say('warning', `Forgotten without asking its agent: ${error.message}`);
    }
  },
};

/** As it was written: defaults are the agent's, which may be of another version. */
function specOf(given: Properties): GroupPolicyInput {
  return given['policy'] as GroupPolicyInput;
}

function idOf({ target, name }: ProtectionGroupInputs): string {
  return `${target.api.replace(/\/$/, '')}/${name}`;
}

/** The owner when the group is there and ours, from a create that was cut short. Refuses what belongs to others. */
async function ownGroup(client: AgentClient, { name }: ProtectionGroupInputs, call: Call): Promise<string | undefined> {
  try {
    const { owner } = await client.group(name);
    if (owner !== null && urnOf(owner) === call.urn) return owner;
    const holder = owner === null ? 'nobody of Pulumi' : urnOf(owner);
    throw new Error(
      `Group ${name} exists and belongs to ${holder}. Was the resource renamed? Give it the old name in \`aliases\`. ` +
        'Otherwise take the group over with `pulumi import`.',
    );
  } catch (error) {
    if (isTidemarkError(error, 'group-unknown')) return undefined;
    if (call.preview && isUnreachable(error)) return undefined;
    throw error;
  }
}

/** The same resource has created it again since: a replacement deletes what it replaced. */
async function wasReplaced(client: AgentClient, name: string, owner: unknown): Promise<boolean> {
  const now = (await client.group(name)).owner;
  return typeof owner === 'string' && now !== null && now !== owner && urnOf(now) === urnOf(owner);
}

async function plannedCreate(
  client: AgentClient,
  inputs: ProtectionGroupInputs,
  given: Properties,
  known: boolean,
  call: Call,
): Promise<Properties> {
  const { name, policy } = inputs;
  try {
    const agent = await client.agent();
    const size = policy.disks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const reserve = policy.history.failoverReserve * size;
    await call.tell.say(
      'info',
      `${known ? 'continues to protect' : 'protects'} ${name} at ${agent.site}\n  replica: ${bytes(size)} for ${policy.disks.length} disks, of which ${bytes(reserve)} more are reserved for a failover\n  journal: at most ${bytes(policy.history.hardLimitBytes)}; a checkpoint every ${policy.checkpointIntervalSeconds} s`,
    );
  } catch (error) {
    if (!isUnreachable(error)) throw error;
    await call.tell.say('warning', `No forecast: ${error.message} [${error.code}]`);
  }
  await refuseTransition(client, inputs);
  return plannedOutputs(inputs, given);
}

/** A create never moves anything: a request in a program that was built anew is an old one, or comes too early. */
async function refuseTransition(client: AgentClient, { name, recovery }: ProtectionGroupInputs): Promise<void> {
  if (recovery === undefined) return;
  if ((await findRun(client, name, recovery)) !== undefined) return;
  throw new Error(
    `recovery: the request ${recovery.request} is not in the operation log of ${name}, and a create runs no ${recovery.action}. Remove it, run the update, then ask for it.`,
  );
}

async function waitUntil(client: AgentClient, inputs: ProtectionGroupInputs, call: Call): Promise<void> {
  const { name, waitFor, waitSeconds, policy } = inputs;
  if (waitFor === 'declared') return;
  const untilMs = performance.now() + waitSeconds * 1000;
  for (;;) {
    const { links, newestCheckpoint, state } = await client.group(name);
    const missing = policy.streams.filter(
      (stream) => !links.some((link) => link.stream === stream && link.state === 'connected'),
    );
    if (missing.length === 0 && (waitFor === 'attached' || newestCheckpoint !== null)) return;
    call.tell.status(missing.length > 0 ? `waiting for ${missing.join(', ')} to connect` : `first sync (${state})`);
    if (performance.now() > untilMs)
      throw new TidemarkError('timed-out', `Group ${name} was not ${waitFor} within ${waitSeconds} s; it goes on.`);
    await pause(500, call.signal);
  }
}

/** Somebody else moved the group or changed its policy since the state was written. */
function refuseStale(before: Properties, { status, last }: GroupFacts): void {
  const { epoch, policyRevision } = before;
  const now = status.epoch?.epoch;
  const by = last === undefined ? '' : ` (${last.id} by ${last.drivenBy})`;
  if (typeof epoch === 'number' && epoch !== now)
    throw new TidemarkError(
      'stale-epoch',
      `This update was computed at epoch ${epoch}, and ${status.name} is at epoch ${now}${by}; nothing was changed. Run pulumi refresh, look, and decide.`,
    );
  if (typeof policyRevision === 'number' && policyRevision !== status.policyRevision)
    throw new TidemarkError(
      'stale-revision',
      `This update was computed at policy revision ${policyRevision}, and ${status.name} is at ${status.policyRevision}; nothing was changed.`,
    );
}

/** What is known beforehand of the group after its transition; the rest is unknown, never an old value. */
function predicted({ recovery, site, group }: Transition, inputs: ProtectionGroupInputs): Properties {
  const home = recovery.action === 'rollback';
  return {
    state: transitions[recovery.action].to,
    activeSite: home ? sourceSite(inputs) : site,
    addresses: home ? inputs.sourceAddresses : liveAddresses(inputs),
    ...(recovery.action === 'commit' ? {} : { epoch: unknown }),
    lastOperation: `${group}:${recovery.request}`,
    drivenBy: unknown,
    lastCheckpoint: unknown,
    requests: unknown,
  };
}

/** `https://HOST:PORT/GROUP` */
async function importGroup(id: string, call: Call): Promise<{ state: State; inputs: Properties } | undefined> {
  const match = /^(https:\/\/[^/]+)\/([^/]+)$/.exec(id);
  if (match === null) throw new Error(`${id} is no id of a group; give https://HOST:PORT/GROUP.`);
  const target = { api: match[1]! };
  const name = match[2]!;
  const client = call.sites.client(target);
  try {
    const { spec } = await client.policy(name);
    const given = { name, target, policy: spec };
    const inputs = protectionGroupSchema.parse(given);
    const facts = await readFacts(client, name);
    return { state: { id, outputs: groupOutputs(inputs, given, facts, {}) }, inputs: given };
  } catch (error) {
    if (isTidemarkError(error, 'group-unknown')) return undefined;
    throw error;
  }
}

function pick(from: Properties, names: readonly string[]): Properties {
  return Object.fromEntries(names.filter((name) => name in from).map((name) => [name, from[name]]));
}
