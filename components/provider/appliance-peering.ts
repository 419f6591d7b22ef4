/**
 * Two agents that know each other: each lets the other in by the name in its certificate, and knows where it is. It holds
 * nothing but that; a site that cannot be reached is passed over when it is destroyed.
 */
import { z } from 'zod';
import { isTidemarkError } from '../agent-client.js';
import { sitePeeringSchema, type SitePeeringInputs } from './appliance-inputs.js';
import { isKnown } from './check.js';
import { newOwner, renamed, urnOf } from './owner.js';
import type { Call, ResourceKind } from './resource.js';
import { isUnreachable } from './sites.js';
import { unknown, type Properties } from './values.js';

type Peered = SitePeeringInputs['first'];

export const sitePeering: ResourceKind = {
  token: 'tidemark:index:SitePeering',
  description: 'Two agents that know each other, in both directions: so that a group can also be reversed',
  schema: sitePeeringSchema,
  outputs: z.object({
    owner: z.string().describe('URN of the resource that it belongs to, and a token of its create'),
    stale: z.boolean().describe('An agent could not be asked; the rest is as it was'),
  }),
  check: (inputs, before) =>
    (['first', 'second'] as const)
      .filter((side) => before !== undefined && isChanged(agentOf(inputs[side]), agentOf(before[side])))
      .map((side) => ({ property: `${side}.agent`, reason: 'it cannot change: declare another peering' })),
  changes: (urn, { owner }) => new Map(typeof owner === 'string' && urnOf(owner) !== urn ? [['owner', 'update']] : []),

  async create(given, call) {
    if (call.preview || !isKnown(given)) return { id: '', outputs: { ...given, owner: unknown, stale: unknown } };
    const inputs = sitePeeringSchema.parse(given);
    const owner = newOwner(call.urn);
    await each(inputs, async (at, peer) => declare(at, peer, owner, await ownerAt(at, peer, call), call));
    const id = `${inputs.first.agent}-${inputs.second.agent}`;
    return { id, outputs: { ...given, owner, stale: false } };
  },

  async update(_id, before, given, call) {
    const previous = String(before['owner'] ?? '');
    const owner = renamed(previous, call.urn);
    if (!call.preview && isKnown(given))
      await each(sitePeeringSchema.parse(given), (at, peer) => declare(at, peer, owner, previous, call));
    return { ...given, owner, stale: false };
  },

  async read(id, before, given, call) {
    const inputs = sitePeeringSchema.safeParse(given);
    if (given === undefined || !inputs.success) throw new Error('A peering cannot be imported; declare it.');
    let [stale, gone] = [false, 0];
    await each(inputs.data, async (at, peer) => {
      try {
        await call.sites.client(at.connection).peer(peer.agent);
      } catch (error) {
        if (isTidemarkError(error, 'peer-unknown')) gone++;
        else if (!isUnreachable(error)) throw error;
        else {
          stale = true;
          await call.tell.say('warning', `The last known state is shown: ${error.message} [${error.code}]`);
        }
      }
    });
    return gone > 0 ? undefined : { state: { id, outputs: { ...before, stale } }, inputs: given };
  },

  async delete(_id, before, call) {
    const { first, second } = before;
    const owner = String(before['owner'] ?? '');
    await each(sitePeeringSchema.parse({ first, second }), async (at, peer) => {
      try {
        const client = call.sites.client(at.connection);
        // Declared anew by the same resource, or by another: not ours any more.
        if ((await client.peer(peer.agent)).owner === owner) await client.removePeer(peer.agent, { owner });
      } catch (error) {
        if (isTidemarkError(error, 'peer-unknown')) return;
        if (!isUnreachable(error)) throw error;
        await call.tell.say('warning', `Not asked any more: ${error.message} [${error.code}]`);
      }
    });
  },
};

/** Each side about the other. */
async function each(
  { first, second }: SitePeeringInputs,
  act: (at: Peered, peer: Peered) => Promise<void>,
): Promise<void> {
  await act(first, second);
  await act(second, first);
}

async function declare(at: Peered, peer: Peered, owner: string, previousOwner: string | undefined, call: Call) {
  await call.sites.client(at.connection).declarePeer(peer.agent, {
    address: peer.stream,
    api: peer.connection.api.replace(/^https:\/\//, '').replace(/\/$/, ''),
    owner,
    ...(previousOwner === undefined || previousOwner === '' ? {} : { previousOwner }),
  });
}

/** Of a create of ours that was cut short; another's is refused by the agent. */
async function ownerAt(at: Peered, peer: Peered, call: Call): Promise<string | undefined> {
  try {
    const { owner } = await call.sites.client(at.connection).peer(peer.agent);
    return owner !== null && urnOf(owner) === call.urn ? owner : undefined;
  } catch (error) {
    if (isTidemarkError(error, 'peer-unknown')) return undefined;
    throw error;
  }
}

function agentOf(side: unknown): unknown {
  return typeof side === 'object' && side !== null ? (side as Properties)['agent'] : undefined;
}

function isChanged(now: unknown, before: unknown): boolean {
  return typeof now === 'string' && now !== before;
}
