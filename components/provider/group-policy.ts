/** The policy of a group, in the direction that it goes now, and who it belongs to. */
import { TidemarkError, type GroupStatus } from '../agent-client.js';
import type { PolicyForecast } from '../../agent/src/service/forecast-schemas.js';
import type { GroupFacts } from './group-outputs.js';
import type { GroupPolicyInput, ProtectionGroupInputs } from './inputs.js';
import { renamed } from './owner.js';
import type { Properties } from './values.js';

export interface Declaration {
  readonly spec: GroupPolicyInput;
  readonly owner: string;
  /** Something has to be declared: the policy differs, or the owner. */
  readonly needed: boolean;
  readonly forecast: PolicyForecast | null;
}

/** What an update would declare; throws what the agent would refuse. */
export async function planDeclaration(
  facts: GroupFacts,
  inputs: ProtectionGroupInputs,
  given: Properties,
  before: Properties,
  urn: string,
): Promise<Declaration> {
  const spec = await specOf(facts, inputs, given);
  const { policy: forecast } = await facts.client.forecast(inputs.name, { spec });
  const [refusal] = forecast?.refusals ?? [];
  if (refusal !== undefined)
    throw new Error(`policy.${refusal.path ?? ''}: ${refusal.message} A group that holds data is never replaced.`);
  const owner = renamed(String(before['owner'] ?? '') || (facts.status.owner ?? ''), urn);
  return { spec, owner, needed: forecast?.changes === true || facts.status.owner !== owner, forecast };
}

/** Throws `stale-epoch`, `stale-revision` when the group moved since the facts were read. */
export async function declare(
  { client, status }: GroupFacts,
  { spec, owner }: Declaration,
  before: Properties,
): Promise<GroupStatus> {
  const previousOwner = String(before['owner'] ?? '') || status.owner;
  return client.declareGroup(status.name, {
    spec,
    owner,
    ...(status.owner === null || previousOwner === null ? {} : { previousOwner }),
    expect: { epoch: status.epoch?.epoch ?? 0, policyRevision: status.policyRevision },
  });
}

/** True when the agent runs by another policy than the program says, and may be told. */
export async function policyDiffers(
  facts: GroupFacts,
  inputs: ProtectionGroupInputs,
  given: Properties,
): Promise<boolean> {
  if (facts.reversed && facts.other === undefined) return false;
  const { policy } = await facts.client.forecast(inputs.name, { spec: await specOf(facts, inputs, given) });
  return policy?.changes === true && policy.refusals.length === 0;
}

/**
 * As it was written: defaults are the agent's, which may be of another version. Behind a reversal disks and streams are
 * those of the other direction, and how VMs come back is what `home` says.
 */
async function specOf(
  { client, reversed }: GroupFacts,
  { name, home }: ProtectionGroupInputs,
  given: Properties,
): Promise<GroupPolicyInput> {
  const policy = given['policy'] as GroupPolicyInput;
  if (!reversed) return policy;
  const { streams, disks, recovery, encryptionKeyFile } = (await client.policy(name)).spec;
  const { history, checkpointIntervalSeconds, newDisks, diskSizeMax } = policy;
  if (recovery === undefined)
    throw new TidemarkError('illegal-state', `Group ${name} does not say how its VMs come home.`, { path: 'home' });
  const { hypervisor } = recovery;
  return {
    streams,
    disks,
    recovery: home?.recovery === undefined ? recovery : { ...home.recovery, hypervisor },
    ...defined({ history, checkpointIntervalSeconds, newDisks, diskSizeMax, encryptionKeyFile }),
  };
}

function defined<Values extends object>(values: Values): { [Key in keyof Values]?: Exclude<Values[Key], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}
