/** What is true of a group now; by import, of one that Pulumi did not know. */
import { isTidemarkError } from '../agent-client.js';
import { groupOutputs, plannedOutputs, readFacts } from './group-outputs.js';
import { policyDiffers } from './group-policy.js';
import { protectionGroupSchema } from './inputs.js';
import { retiredOf } from './retired.js';
import type { Call, State } from './resource.js';
import { isUnreachable } from './sites.js';
import type { Properties } from './values.js';

type Found = { readonly state: State; readonly inputs: Properties };

/** Undefined: it is gone. An agent that cannot be reached is never that, nor is a group that was removed and is kept. */
export async function readGroup(
  id: string,
  before: Properties,
  given: Properties | undefined,
  call: Call,
): Promise<Found | undefined> {
  if (given === undefined) return importGroup(id, call);
  const inputs = protectionGroupSchema.safeParse(given);
  // Inputs of another version of the package: what they mean is for the next update.
  if (!inputs.success) return { state: { id, outputs: before }, inputs: given };
  const found = (outputs: Properties): Found => ({ state: { id, outputs }, inputs: given });
  try {
    const facts = await readFacts(call.sites, inputs.data, before);
    const outputs = groupOutputs(inputs.data, given, facts, before);
    const { imported = false } = before;
    return found({ ...outputs, imported, policyDiffers: await policyDiffers(facts, inputs.data, given) });
  } catch (error) {
    if (isTidemarkError(error, 'group-unknown')) {
      const kept = await retiredOf(call.sites.client(inputs.data.target), inputs.data.name);
      return kept === undefined ? undefined : found({ ...before, state: 'retired', stale: false });
    }
    if (!isUnreachable(error)) throw error;
    await call.tell.say('warning', `The last known state is shown: ${error.message} [${error.code}]`);
    return found({ ...before, stale: true });
  }
}

/** `https://HOST:PORT/GROUP` */
async function importGroup(id: string, call: Call): Promise<Found | undefined> {
  const match = /^(https:\/\/[^/]+)\/([^/]+)$/.exec(id);
  if (match === null) throw new Error(`${id} is no id of a group; give https://HOST:PORT/GROUP.`);
  const target = { api: match[1]! };
  const name = match[2]!;
  const client = call.sites.client(target);
  const given = (spec: unknown): Properties => ({ name, target, policy: spec });
  try {
    const inputs = given((await client.policy(name)).spec);
    const facts = await readFacts(call.sites, protectionGroupSchema.parse(inputs), {});
    const outputs = groupOutputs(protectionGroupSchema.parse(inputs), inputs, facts, {});
    return { state: { id, outputs: { ...outputs, imported: true } }, inputs };
  } catch (error) {
    if (!isTidemarkError(error, 'group-unknown')) throw error;
    const kept = await retiredOf(client, name);
    if (kept === undefined || kept.policy === null) return undefined;
    const { spec, owner, policyRevision } = kept.policy;
    const inputs = given(spec);
    const { site } = await client.agent();
    const known = { state: 'retired', stateSite: site, targetSite: site, owner: owner ?? '', policyRevision, epoch: 0 };
    const outputs = { ...plannedOutputs(protectionGroupSchema.parse(inputs), inputs), ...known, imported: true };
    return { state: { id, outputs }, inputs };
  }
}
