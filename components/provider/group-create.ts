/** Declares a group that is not there, or goes on with a declaration of its own that was cut short. */
import { isTidemarkError, TidemarkError, type AgentClient } from '../agent-client.js';
import { findAuthority, type Authority } from './authority.js';
import { bytes } from './forecast-text.js';
import { groupOutputs, plannedOutputs, readFacts } from './group-outputs.js';
import { protectionGroupSchema, type GroupPolicyInput, type ProtectionGroupInputs } from './inputs.js';
import { newOwner, urnOf } from './owner.js';
import { pause } from './pause.js';
import { PartialFailure, type Call, type State } from './resource.js';
import { retiredOf } from './retired.js';
import { isUnreachable } from './sites.js';
import { findRun } from './transition.js';
import type { Properties } from './values.js';

export async function createGroup(given: Properties, call: Call & { readonly existed: boolean }): Promise<State> {
  const inputs = protectionGroupSchema.parse(given);
  const { name, recovery } = inputs;
  const id = idOf(inputs);
  if (call.existed)
    throw new Error(
      `Group ${name} holds data and is never replaced; it stays as it is. Run the update without --replace.`,
    );
  const known = await ownGroup(inputs, call);
  if (call.preview) return { id, outputs: await plannedCreate(inputs, given, known !== undefined, call) };
  await refuseTransition(inputs, known, call);
  const owner = known?.status.owner;
  // One that was reversed has its policy where it is; an update declares what differs.
  if (known?.reversed !== true)
    await call.sites.client(inputs.target).declareGroup(name, {
      spec: given['policy'] as GroupPolicyInput,
      owner: newOwner(call.urn),
      ...(typeof owner === 'string' ? { previousOwner: owner } : {}),
    });
  const ran = recovery === undefined ? [] : [recovery.request];
  const state = async (): Promise<State> => ({
    id,
    outputs: groupOutputs(inputs, given, await readFacts(call.sites, inputs, {}), {}, ran),
  });
  try {
    await waitUntil(inputs, call);
  } catch (error) {
    throw new PartialFailure(await state(), (error as Error).message);
  }
  return state();
}

export function idOf({ target, name }: Pick<ProtectionGroupInputs, 'target' | 'name'>): string {
  return `${target.api.replace(/\/$/, '')}/${name}`;
}

/** Where it is when it is there and ours. Refuses what belongs to others. */
async function ownGroup(inputs: ProtectionGroupInputs, call: Call): Promise<Authority | undefined> {
  const { name } = inputs;
  try {
    const authority = await findAuthority(call.sites, inputs);
    const { owner } = authority.status;
    if (owner !== null && urnOf(owner) === call.urn) return authority;
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

async function plannedCreate(
  inputs: ProtectionGroupInputs,
  given: Properties,
  known: boolean,
  call: Call,
): Promise<Properties> {
  const { name, policy } = inputs;
  const client = call.sites.client(inputs.target);
  try {
    const [agent, retired] = await Promise.all([client.agent(), retiredOf(client, name)]);
    const size = policy.disks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const reserve = policy.history.failoverReserve * size;
    const kept = known ? undefined : retired;
    await call.tell.say(
      'info',
      `${known ? 'continues to protect' : 'protects'} ${name} at ${agent.site}\n  replica: ${bytes(size)} for ${policy.disks.length} disks, of which ${bytes(reserve)} more are reserved for a failover\n  journal: at most ${bytes(policy.history.hardLimitBytes)}; a checkpoint every ${policy.checkpointIntervalSeconds} s${
        kept === undefined
          ? ''
          : `\n  a removed group ${name} is kept until ${new Date(kept.untilMs).toISOString()}: \`pulumi import\` takes it back with its history, this begins anew`
      }`,
    );
  } catch (error) {
    if (!isUnreachable(error)) throw error;
    await call.tell.say('warning', `No forecast: ${error.message} [${error.code}]`);
    return plannedOutputs(inputs, given);
  }
  await refuseTransition(inputs, undefined, call);
  return plannedOutputs(inputs, given);
}

/** A create never moves anything: a request in a program that was built anew is an old one, or comes too early. */
async function refuseTransition(
  { name, recovery, target }: ProtectionGroupInputs,
  known: Authority | undefined,
  call: Call,
): Promise<void> {
  if (recovery === undefined) return;
  const clients = [known?.client ?? call.sites.client(target), known?.reversed === true ? known.other : undefined];
  if ((await findRun(clients, name, recovery)) !== undefined) return;
  throw new Error(unheardText(name, recovery));
}

/** Of a request that no agent knows, in a stack that has not seen the group before. */
export function unheardText(name: string, { request, action }: { request: string; action: string }): string {
  return `recovery: the request ${request} is not in the operation log of ${name}, and this stack has only just taken the group over: no ${action} is run. Remove it, run the update, then ask for it.`;
}

async function waitUntil(inputs: ProtectionGroupInputs, call: Call): Promise<void> {
  const { name, waitFor, waitSeconds, policy, target } = inputs;
  if (waitFor === 'declared') return;
  const client: AgentClient = call.sites.client(target);
  const untilMs = performance.now() + waitSeconds * 1000;
  for (;;) {
    const { links, newestCheckpoint, state, role } = await client.group(name);
    // It sends: it was reversed, and its first sync is long over.
    if (role === 'source') return;
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
