/** Groups that were removed and can be taken back. */
import type { AgentClient, RetiredGroup } from '../agent-client.js';

/** The one that stays longest; a history that a reversal closed is none. */
export async function retiredOf(
  client: AgentClient,
  name: string,
): Promise<(RetiredGroup & { readonly untilMs: number }) | undefined> {
  for (const { untilMs, ...group } of await client.retiredGroups())
    if (group.name === name && group.why === 'removed' && untilMs !== null) return { ...group, untilMs };
  return undefined;
}
