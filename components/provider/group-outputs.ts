/** Outputs of a group: what is true and stays true on a quiet stack. RPO and checkpoints are functions, not state. */
import { z } from 'zod';
import type { RecoveryVm } from '../../agent/src/service/recovery-spec.js';
import type { AgentClient, GroupStatus, Operation } from '../agent-client.js';
import { findAuthority, type Authority } from './authority.js';
import { actions, type ProtectionGroupInputs } from './inputs.js';
import { isUnreachable, type Sites } from './sites.js';
import { unknown, type Properties } from './values.js';

/** Requests that are remembered as run, besides the agent's own log. */
const requestCountMax = 1000;

export const protectionGroupOutputsSchema = z.object({
  state: z
    .string()
    .describe('protecting, failed-over, committing, committed, retired, …; what comes with the link is in getStatus'),
  stateSite: z.string().describe('Site of the agent that holds the journal'),
  targetSite: z.string().describe('Site of `target`'),
  reversed: z.boolean().describe('Turned round: it runs at the target and is protected to the source'),
  activeSite: z.string().describe('Site where the application runs; feed DNS and load balancers with it'),
  addresses: z
    .record(z.string(), z.array(z.string()))
    .describe('Addresses of each VM where it runs now, as far as they are declared'),
  epoch: z.number().describe('Grows with every change of direction'),
  policyRevision: z.number(),
  policyDiffers: z.boolean().describe('The agent runs by another policy than the program says: an update declares it'),
  owner: z.string().describe('URN of the resource that the group belongs to, and a token of its create'),
  lastOperation: z.string().describe('Id of the newest transition, whoever asked for it'),
  drivenBy: z.string().describe('Who asked for it'),
  lastCheckpoint: z.string().describe('Checkpoint that it took'),
  requests: z.array(z.string()).describe('Requests of this resource that have run'),
  imported: z
    .boolean()
    .describe('And not updated since: a request that no agent knows is refused, because it may be an old one'),
  stale: z.boolean().describe('The agent could not be asked; the rest is as it was'),
});

/** What outputs are made of besides the inputs. */
export interface GroupFacts extends Authority {
  /** Site of the agent that holds the journal. */
  readonly site: string;
  /** Site of `target`; undefined while it cannot be asked. */
  readonly targetSite: string | undefined;
  /** The newest transition. */
  readonly last: Operation | undefined;
  /** Held the journal when the state was written. */
  readonly formerly: AgentClient | undefined;
}

/** Asks the agent that holds the journal, and the other only for what turned round since `before` was written. */
export async function readFacts(sites: Sites, inputs: ProtectionGroupInputs, before: Properties): Promise<GroupFacts> {
  const authority = await findAuthority(sites, inputs, before['reversed'] === true);
  const { client, reversed, other } = authority;
  const [agent, newest] = await Promise.all([client.agent(), newestTransition(client, inputs.name)]);
  const hasTurned = other !== undefined && reversed !== (before['reversed'] === true);
  const known = text(before['targetSite']);
  const targetSite =
    !reversed || other === undefined
      ? agent.site
      : known !== ''
        ? known
        : await quietly(async () => (await other.agent()).site);
  // Behind a reversal the new history has none yet.
  const last = newest ?? (hasTurned ? await quietly(() => newestTransition(other, inputs.name)) : undefined);
  return { ...authority, site: agent.site, targetSite, last, formerly: hasTurned ? other : undefined };
}

async function newestTransition(client: AgentClient, group: string): Promise<Operation | undefined> {
  const { operations } = await client.operations({ group, limit: 200 });
  return operations.find(({ kind }) => (actions as readonly string[]).includes(kind));
}

/** Undefined when the agent cannot be asked. */
async function quietly<Value>(ask: () => Promise<Value>): Promise<Value | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (isUnreachable(error)) return undefined;
    throw error;
  }
}

export function groupOutputs(
  inputs: ProtectionGroupInputs,
  given: Properties,
  facts: GroupFacts,
  before: Properties,
  ran: readonly string[] = [],
): Properties {
  const { status, site, last, reversed } = facts;
  const targetSite = facts.targetSite ?? text(before['targetSite']);
  const where = runsAt(facts);
  return {
    ...given,
    state: lastingState(status.state),
    stateSite: site,
    targetSite,
    reversed,
    activeSite: where === 'target' ? targetSite : sourceSite(inputs),
    addresses: addressesAt(inputs, where, reversed),
    epoch: status.epoch?.epoch ?? 0,
    policyRevision: status.policyRevision,
    policyDiffers: false,
    // A source does not say whose the group is.
    owner: status.role === 'source' ? text(before['owner']) : (status.owner ?? ''),
    lastOperation: last?.id ?? text(before['lastOperation']),
    drivenBy: last?.drivenBy ?? text(before['drivenBy']),
    lastCheckpoint: last === undefined ? text(before['lastCheckpoint']) : text(last.result?.['checkpoint']),
    requests: [...new Set([...requestsOf(before), ...ran])].slice(-requestCountMax),
    imported: false,
    stale: false,
  };
}

/** On which side the application runs: the epoch's holder says so, not the state of a link. */
function runsAt({ status, reversed }: GroupFacts): 'source' | 'target' {
  // Seen from the side that sends: it runs there until the other has taken it.
  if (status.role === 'source') return status.state === 'fenced' ? 'source' : 'target';
  return (status.epoch?.holder === 'target') === reversed ? 'source' : 'target';
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** Before anything is known of the group: what of it can be said already. */
export function plannedOutputs(inputs: ProtectionGroupInputs, given: Properties): Properties {
  return {
    ...given,
    ...unknownFacts,
    state: 'protecting',
    reversed: false,
    policyDiffers: false,
    imported: false,
    activeSite: sourceSite(inputs),
    addresses: inputs.sourceAddresses,
    lastOperation: '',
    drivenBy: '',
    lastCheckpoint: '',
    requests: [],
    stale: false,
  };
}

/** Everything that is read from the agents. */
export const unknownFacts: Properties = {
  ...{ state: unknown, stateSite: unknown, activeSite: unknown, addresses: unknown, epoch: unknown },
  ...{ policyRevision: unknown, owner: unknown, lastOperation: unknown, drivenBy: unknown, lastCheckpoint: unknown },
  ...{ requests: unknown, stale: unknown, targetSite: unknown, reversed: unknown },
  ...{ policyDiffers: unknown, imported: unknown },
};

/** States that come and go with the link are one to a stack. */
export function lastingState(state: GroupStatus['state']): string {
  switch (state) {
    case 'initial':
    case 'resyncing':
    case 'disconnected':
    case 'paused':
      return 'protecting';
    default:
      return state;
  }
}

export function requestsOf(outputs: Properties): string[] {
  const { requests } = outputs;
  return Array.isArray(requests) ? requests.filter((request) => typeof request === 'string') : [];
}

export function sourceSite({ sourceSite: named, policy }: ProtectionGroupInputs): string {
  return named ?? policy.streams[0]!;
}

/** Where the VMs are; what only a guest's DHCP knows is left out. After a reversal they keep what they had at the target. */
export function addressesAt(
  { policy, sourceAddresses, home }: ProtectionGroupInputs,
  where: 'source' | 'target',
  reversed: boolean,
): Record<string, string[]> {
  if (where === 'source' && !reversed) return sourceAddresses;
  const atTarget = changedBy(policy.recovery?.vms ?? [], sourceAddresses);
  return where === 'target' ? atTarget : { ...atTarget, ...changedBy(home?.recovery?.vms ?? [], atTarget) };
}

function changedBy(vms: readonly RecoveryVm[], before: Record<string, string[]>): Record<string, string[]> {
  return Object.fromEntries(
    vms.map(({ vm, addresses }) => {
      if (addresses.length === 0) return [vm, before[vm] ?? []];
      const known = addresses.flatMap(({ live }) => {
        if (live === 'keep') return before[vm] ?? [];
        return live === 'dhcp' ? [] : live.addresses.map((address) => address.split('/')[0]!);
      });
      return [vm, [...new Set(known)]];
    }),
  );
}
