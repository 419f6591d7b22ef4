/** The last checkpoint of a group at its source: everything that was ever written lies before it and is durable. */
import type { SourceGroup } from '../capture/source-group.js';
import { sleep, type Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { SourceLink } from '../link/link.js';

/** Disks of VMs that ended count as complete after so long at most (their mirrors' last words are waited for). */
const settleMs = 20_000;
const lookMs = 50;

export interface FinalMark {
  /** Null: the group has several source agents, and its target makes the checkpoint when all have ended. */
  readonly checkpoint: string | null;
  readonly incarnation: number;
  /** Everything up to it is durable at the target. */
  readonly sequence: number;
}

export interface FinalMarkOptions {
  readonly clock: Clock;
  readonly label: string;
  readonly drainMs: number;
  readonly signal: AbortSignal;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
}

/** Throws `illegal-state` when the target cannot be given a last checkpoint with all disks now. */
export function checkComplete(group: SourceGroup, target: string): void {
  const problem = problemOf(group, linkTo(group, target));
  if (problem !== undefined) throw new TidemarkError('illegal-state', `Group ${group.name}: ${problem}.`);
}

/** To be called when nothing writes any more; that nothing did is checked. Throws `illegal-state`, `timed-out`. */
export async function placeFinalMark(
  group: SourceGroup,
  target: string,
  options: FinalMarkOptions,
): Promise<FinalMark> {
  const { clock, label, signal } = options;
  const link = linkTo(group, target);
  await settled(group, clock, signal);
  const before = group.status.capturedCount;
  const { incarnation } = link.status;
  const mark = group.isShared ? undefined : group.tag(label).find((each) => each.target === target)?.mark;
  if (!group.isShared && (mark === undefined || mark.disksMissing.length > 0)) {
    const missing = mark?.disksMissing.join(', ');
    const why = missing === undefined ? 'no checkpoint can be placed now' : `${missing} would be missing from it`;
    throw new TidemarkError('illegal-state', `The last checkpoint of ${group.name} for ${target}: ${why}.`);
  }
  const sequence = mark?.sequence ?? link.status.sequenceGiven;
  await drained(link, sequence, incarnation, options);
  if (group.status.capturedCount !== before)
    throw new TidemarkError('source-running', `Something wrote to a disk of ${group.name} after its last checkpoint.`);
  return { checkpoint: mark?.id ?? null, incarnation, sequence };
}

function linkTo(group: SourceGroup, target: string): SourceLink {
  const link = group.links.find((each) => each.target === target);
  if (link !== undefined) return link;
  throw new TidemarkError('request-invalid', `${target} is no target of group ${group.name}.`, {
    path: 'arguments.target',
  });
}

function problemOf(group: SourceGroup, link: SourceLink): string | undefined {
  const { state, syncs, stage, connected, target } = link.status;
  if (!connected || state === 'fenced' || state === 'forked') return `its link to ${target} is ${state}`;
  if (syncs.length > 0 || stage === 'bitmap') return `${target} is being brought up to the source`;
  return incompleteDisk(group);
}

function incompleteDisk(group: SourceGroup): string | undefined {
  const disk = group.status.disks.find(({ attached, removed }) => !attached && !removed);
  return disk === undefined ? undefined : `disk ${disk.name} is not captured now`;
}

async function settled(group: SourceGroup, clock: Clock, signal: AbortSignal): Promise<void> {
  const untilMs = clock.monotonicMs() + settleMs;
  for (;;) {
    const problem = incompleteDisk(group);
    if (problem === undefined) return;
    if (clock.monotonicMs() > untilMs)
      throw new TidemarkError('illegal-state', `Group ${group.name}: ${problem}, its last writes may be missing.`);
    await sleep(clock, lookMs, signal);
  }
}

async function drained(link: SourceLink, sequence: number, incarnation: number, options: FinalMarkOptions) {
  const { clock, drainMs, signal, onProgress } = options;
  const untilMs = clock.monotonicMs() + drainMs;
  const totalBytes = link.status.unsentBytes;
  for (;;) {
    const { status } = link;
    if (status.incarnation !== incarnation)
      throw new TidemarkError('illegal-state', `${link.target} lost the last checkpoint: its history began anew.`);
    if (status.sequenceDurable >= sequence) return;
    if (clock.monotonicMs() > untilMs)
      throw new TidemarkError('timed-out', `What was written last is not durable at ${link.target} in time.`);
    onProgress(Math.max(0, totalBytes - status.unsentBytes), totalBytes);
    await sleep(clock, lookMs, signal);
  }
}
