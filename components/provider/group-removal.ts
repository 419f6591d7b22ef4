/** Ends the protection of a group. Journal and replica are retired for days, never deleted at once unless that was said before. */
import { isTidemarkError, TidemarkError, type AgentClient } from '../agent-client.js';
import { findAuthority } from './authority.js';
import { protectionGroupSchema } from './inputs.js';
import { urnOf } from './owner.js';
import type { Call } from './resource.js';
import { isUnreachable } from './sites.js';
import type { Properties } from './values.js';

const parts = { name: true, target: true, source: true, deletionGraceDays: true, forceDestroy: true } as const;

/** `before`: as the last update left it, so a `forceDestroy` that was never applied does not count. */
export async function deleteGroup(before: Properties, { sites, tell }: Call): Promise<void> {
  const named = Object.keys(parts).filter((part) => part in before);
  const { name, target, source, deletionGraceDays, forceDestroy } = protectionGroupSchema
    .pick(parts)
    .parse(Object.fromEntries(named.map((part) => [part, before[part]])));
  const { owner, epoch, policyRevision } = before;
  const graceDays = forceDestroy ? 0 : deletionGraceDays;
  try {
    const { client, status, reversed, other } = await findAuthority(
      sites,
      { name, target, source },
      before['reversed'] === true,
    );
    if (reversed && other === undefined)
      throw new TidemarkError(
        'illegal-state',
        `Group ${name} was reversed: the agent at its old source holds the journal. Name it in \`source\`, run an update, then destroy.`,
        { path: 'source' },
      );
    if (wasReplaced(status.owner, owner)) {
      await tell.say('info', `Group ${name} stays: the same resource has declared it anew.`);
      return;
    }
    await client.removeGroup(name, {
      ...(typeof owner === 'string' && owner !== '' ? { owner } : {}),
      ...(typeof epoch === 'number' ? { epoch } : {}),
      ...(typeof policyRevision === 'number' ? { policyRevision } : {}),
      graceDays,
    });
    if (reversed && other !== undefined) await removeHistory(other, name, graceDays, tell);
  } catch (error) {
    if (isTidemarkError(error, 'group-unknown')) return;
    if (!isUnreachable(error)) throw error;
    if (!forceDestroy)
      throw new TidemarkError(
        error.code,
        `${error.message}; group ${name} may still protect. When the site is gone for good: set forceDestroy, run an update, then destroy again; or pulumi state delete.`,
      );
    await tell.say('warning', `Forgotten without asking its agent: ${error.message}`);
  }
}

/** What a reversal closed at the other agent. */
async function removeHistory(other: AgentClient, name: string, graceDays: number, tell: Call['tell']): Promise<void> {
  try {
    await other.removeGroup(name, { graceDays });
  } catch (error) {
    if (!isUnreachable(error)) throw error;
    await tell.say('warning', `The closed history of ${name} stays at an agent: ${error.message}`);
  }
}

/** The same resource has created it again since: a replacement deletes what it replaced. */
function wasReplaced(now: string | null, before: unknown): boolean {
  return typeof before === 'string' && now !== null && now !== before && urnOf(now) === urnOf(before);
}
