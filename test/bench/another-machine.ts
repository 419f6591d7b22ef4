/** Two agents on one machine, where a user has two. */
import { readdirSync } from 'node:fs';
import { setPriority } from 'node:os';

/** At the lowest (19) a target got so little beside two busy cores that its source retreated to the bitmap. */
const niceness = 10;

export const steppedBackNote = `The target agent, which belongs to another machine, gives way to guest, source and writer (nice ${niceness}).`;

/** The agent takes the processor time that the others leave: it stands for a machine of its own, at the other end of a WAN. */
export function stepBack({ pid }: { readonly pid: number }): void {
  for (const thread of readdirSync(`/proc/${pid}/task`)) setPriority(Number(thread), niceness);
}
