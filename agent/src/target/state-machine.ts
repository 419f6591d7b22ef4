/**
 * The one table of legal (state, action) pairs; agent, CLI, provider and documents read it.
 *
 * | state | meaning |
 * |---|---|
 * | protecting | the source holds the epoch and replicates |
 * | failed-over | the target holds the epoch; a production view runs; uncommitted |
 * | committing | past the point of no return: disks are being made permanent |
 * | committed | the disks are files of their own; the old source is fenced |
 * | reversed | the old source's site protects the VMs that run here; this history is kept, and nothing is added to it |
 */
import { TidemarkError } from '../core/errors.js';

export const groupStates = ['protecting', 'failed-over', 'committing', 'committed', 'reversed'] as const;
export type GroupState = (typeof groupStates)[number];

export const transitions = {
  failover: { from: ['protecting'], to: 'failed-over' },
  move: { from: ['protecting'], to: 'failed-over' },
  rollback: { from: ['failed-over'], to: 'protecting' },
  commit: { from: ['failed-over'], to: 'committed' },
  reverse: { from: ['committed'], to: 'reversed' },
} as const satisfies Record<string, { from: readonly GroupState[]; to: GroupState }>;
export type TransitionAction = keyof typeof transitions;

/** Actions that are legal in a state. */
export function legalActions(state: GroupState): TransitionAction[] {
  return (Object.keys(transitions) as TransitionAction[]).filter((action) =>
    (transitions[action].from as readonly GroupState[]).includes(state),
  );
}

/** Throws `illegal-state`, naming what is legal, when the action is not. */
export function checkTransition(group: string, state: GroupState, action: TransitionAction): void {
  if (legalActions(state).includes(action)) return;
  const legal = legalActions(state).join(', ') || 'none';
  throw new TidemarkError(
    'illegal-state',
    `Group ${group} is ${state}: ${action} is not possible; legal now: ${legal}.`,
  );
}
