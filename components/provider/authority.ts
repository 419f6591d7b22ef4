/**
 * Which agent holds a group's journal now. Before a reversal it is the agent of `target`; behind one it is the agent of
 * `source`, and the application runs at the target's site. Who is asked first does not decide: what they say does.
 */
import { isTidemarkError, TidemarkError, type AgentClient, type GroupStatus } from '../agent-client.js';
import type { SiteInput } from './inputs.js';
import { isUnreachable, type Sites } from './sites.js';

export interface Authority {
  readonly client: AgentClient;
  readonly status: GroupStatus;
  /** Turned round by a reversal: the application runs at the target's site and is protected to the source's. */
  readonly reversed: boolean;
  /** The other agent, when it is named. */
  readonly other: AgentClient | undefined;
}

export interface GroupPlace {
  readonly name: string;
  readonly target: SiteInput;
  readonly source?: SiteInput | undefined;
}

/**
 * `wasReversed`, what the state says, is who is asked first: in a disaster the other answers nothing, late. Throws
 * `group-unknown` when nobody has it, and the reason of an agent that would have to be asked and cannot be.
 */
export async function findAuthority(
  sites: Sites,
  { name, target, source }: GroupPlace,
  wasReversed = false,
): Promise<Authority> {
  const atTarget = sites.client(target);
  const atSource = source === undefined ? undefined : sites.client(source);
  if (wasReversed && atSource !== undefined) {
    const { status } = await ask(atSource, name);
    if (status !== undefined && isKeeper(status)) return { client: atSource, status, reversed: true, other: atTarget };
  }
  const here = await ask(atTarget, name);
  if (here.status !== undefined && isKeeper(here.status))
    return { client: atTarget, status: here.status, reversed: false, other: atSource };
  if (atSource === undefined) {
    if (here.status === undefined) throw here.error;
    return { client: atTarget, status: here.status, reversed: true, other: undefined };
  }
  const there = await ask(atSource, name);
  if (there.status !== undefined && isKeeper(there.status))
    return { client: atSource, status: there.status, reversed: true, other: atTarget };
  if (here.status === undefined) throw here.error;
  // It was reversed, so it is not gone, whatever the other says now.
  throw there.status === undefined && isUnreachable(there.error) ? there.error : nobody(name);
}

/** Only a keeper changes a group: without `source` a reversed one can be looked at, not changed. */
export function refuseUnnamed({ reversed, other, status }: Authority): void {
  if (!reversed || other !== undefined) return;
  throw new TidemarkError(
    'illegal-state',
    `Group ${status.name} was reversed: the agent at its old source holds the journal now. Name it in \`source\`, and it is asked.`,
    { path: 'source' },
  );
}

/** It has the journal, and no reversal has closed it. */
function isKeeper({ role, state }: GroupStatus): boolean {
  return role === 'target' && state !== 'reversed';
}

type Answer = { readonly status: GroupStatus } | { readonly status: undefined; readonly error: TidemarkError };

async function ask(client: AgentClient, name: string): Promise<Answer> {
  try {
    return { status: await client.group(name) };
  } catch (error) {
    if (!isUnreachable(error) && !isTidemarkError(error, 'group-unknown')) throw error;
    return { status: undefined, error };
  }
}

function nobody(name: string): TidemarkError {
  return new TidemarkError('group-not-opened', `Group ${name} was reversed, and no agent holds its journal now.`);
}
