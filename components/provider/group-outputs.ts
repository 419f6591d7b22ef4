/** Outputs of a group: what is true and stays true on a quiet stack. RPO and checkpoints are functions, not state. */
import { z } from 'zod';
import type { AgentClient, GroupStatus, Operation } from '../agent-client.js';
import { actions, type ProtectionGroupInputs } from './inputs.js';
import { unknown, type Properties } from './values.js';

/** Requests that are remembered as run, besides the agent's own log. */
const requestCountMax = 1000;

export const protectionGroupOutputsSchema = z.object({
  state: z
    .string()
    .describe('protecting, failed-over, committing, committed, …; what comes with the link is in getStatus'),
  stateSite: z.string().describe('Site of the target agent'),
  activeSite: z.string().describe('Site where the application runs; feed DNS and load balancers with it'),
  addresses: z
    .record(z.string(), z.array(z.string()))
    .describe('Addresses of each VM where it runs now, as far as they are declared'),
  epoch: z.number().describe('Grows with every change of direction'),
  policyRevision: z.number(),
  owner: z.string().describe('URN of the resource that the group belongs to, and a token of its create'),
  lastOperation: z.string().describe('Id of the newest transition, whoever asked for it'),
  drivenBy: z.string().describe('Who asked for it'),
  lastCheckpoint: z.string().describe('Checkpoint that it took'),
  requests: z.array(z.string()).describe('Requests of this resource that have run'),
  stale: z.boolean().describe('The agent could not be asked; the rest is as it was'),
});

/** What outputs are made of besides the inputs. */
export interface GroupFacts {
  readonly status: GroupStatus;
  readonly site: string;
  /** The newest transition. */
  readonly last: Operation | undefined;
}

export async function readFacts(client: AgentClient, name: string): Promise<GroupFacts> {
  const [status, agent, page] = await Promise.all([
    client.group(name),
    client.agent(),
    client.operations({ group: name, limit: 200 }),
  ]);
  const last = page.operations.find(({ kind }) => (actions as readonly string[]).includes(kind));
  return { status, site: agent.site, last };
}

export function groupOutputs(
  inputs: ProtectionGroupInputs,
  given: Properties,
  { status, site, last }: GroupFacts,
  before: Properties,
  ran: readonly string[] = [],
): Properties {
  const state = lastingState(status.state);
  const atTarget = state !== 'protecting';
  return {
    ...given,
    state,
    stateSite: site,
    activeSite: atTarget ? site : sourceSite(inputs),
    addresses: atTarget ? liveAddresses(inputs) : inputs.sourceAddresses,
    epoch: status.epoch?.epoch ?? 0,
    policyRevision: status.policyRevision,
    owner: status.owner ?? '',
    lastOperation: last?.id ?? '',
    drivenBy: last?.drivenBy ?? '',
    lastCheckpoint: typeof last?.result?.['checkpoint'] === 'string' ? last.result['checkpoint'] : '',
    requests: [...new Set([...requestsOf(before), ...ran])].slice(-requestCountMax),
    stale: false,
  };
}

/** Before anything is known of the group: what of it can be said already. */
export function plannedOutputs(inputs: ProtectionGroupInputs, given: Properties): Properties {
  return {
    ...given,
    ...unknownFacts,
    state: 'protecting',
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
  ...{ requests: unknown, stale: unknown },
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

/** Where the VMs are after a failover; what only the guest's DHCP knows is left out. */
export function liveAddresses({ policy, sourceAddresses }: ProtectionGroupInputs): Record<string, string[]> {
  const vms = policy.recovery?.vms ?? [];
  return Object.fromEntries(
    vms.map(({ vm, addresses }) => {
      if (addresses.length === 0) return [vm, sourceAddresses[vm] ?? []];
      const known = addresses.flatMap(({ live }) => {
        if (live === 'keep') return sourceAddresses[vm] ?? [];
        return live === 'dhcp' ? [] : live.addresses.map((address) => address.split('/')[0]!);
      });
      return [vm, [...new Set(known)]];
    }),
  );
}
