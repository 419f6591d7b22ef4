/**
 * When application checkpoints of one group are due, decided from the wall clock alone. What could not be made is counted
 * with its reason, also what fell into a time in which this agent did not run.
 */
import { nextRunMs } from './cron.js';
import type { HookSchedule } from './settings.js';

export type MissedReason = 'agent-down' | 'running' | 'per-hour' | 'not-taken';

/** Durable, so that an agent that starts knows what it missed. */
export interface ScheduleState {
  /** Everything that was due up to here was made or counted as missed. */
  readonly doneMs: number;
  readonly missedCount: number;
  /** Newest last, at most {@link missedKept}. */
  readonly missed: readonly { readonly dueMs: number; readonly reason: MissedReason }[];
  /** Starts within the last hour. */
  readonly startsMs: readonly number[];
}

export const missedKept = 20;
const hourMs = 3_600_000;
/** More that fell into one pause are not counted one by one. */
const countMax = 10_000;
/** What is due so little ago is made, later ones were missed. */
const lateMsMax = 60_000;

export function newState(nowMs: number): ScheduleState {
  return { doneMs: nowMs, missedCount: 0, missed: [], startsMs: [] };
}

/** What is to be done at `nowMs`: start one or not, and the state after it. `isRunning`: one is being made. */
export function decide(
  schedule: HookSchedule,
  before: ScheduleState,
  nowMs: number,
  isRunning: boolean,
): { readonly start: boolean; readonly missed: readonly MissedReason[]; readonly state: ScheduleState } {
  // A clock that was put back: what it repeats was made already, or is made anew.
  let state = before.doneMs > nowMs + hourMs ? { ...before, doneMs: nowMs } : before;
  const dues: number[] = [];
  for (let dueMs = nextRunMs(schedule, state.doneMs); dueMs !== undefined && dueMs <= nowMs;) {
    dues.push(dueMs);
    if (dues.length >= countMax) break;
    dueMs = nextRunMs(schedule, dueMs);
  }
  const newest = dues.at(-1);
  if (newest === undefined) return { start: false, missed: [], state };
  const missed: MissedReason[] = [];
  const miss = (dueMs: number, reason: MissedReason): void => {
    missed.push(reason);
    state = withMissed(state, dueMs, reason);
  };
  for (const dueMs of dues.slice(0, -1)) miss(dueMs, 'agent-down');
  state = { ...state, doneMs: newest, startsMs: state.startsMs.filter((at) => at > nowMs - hourMs) };
  if (nowMs - newest > lateMsMax) miss(newest, 'agent-down');
  else if (isRunning) miss(newest, 'running');
  else if (state.startsMs.length >= schedule.perHourMax) miss(newest, 'per-hour');
  else return { start: true, missed, state: { ...state, startsMs: [...state.startsMs, nowMs] } };
  return { start: false, missed, state };
}

export function withMissed(state: ScheduleState, dueMs: number, reason: MissedReason): ScheduleState {
  return {
    ...state,
    missedCount: state.missedCount + 1,
    missed: [...state.missed, { dueMs, reason }].slice(-missedKept),
  };
}
