/**
 * The dead man: a process inside the guest that releases it when this agent goes silent. It is armed before anything is held,
 * and then needs nothing that a freeze could keep from it: the program is in memory and locked there, the mount points are
 * open, it writes no file, and it is spoken to over a socket without a name in any file system. Its time is the guest's
 * monotonic clock. At its end it thaws every file system and kills the sessions that were held, again and again until the
 * kernel says that nothing is frozen.
 *
 * | state | `cancel` answers | then |
 * |---|---|---|
 * | armed | `unfired` | it ends: the proof that it never let go |
 * | fired | `fired` | it ends when all is thawed; the point is crash |
 *
 * Nobody there, or no answer: no proof. It outlives the guest agent, and its service: it leaves their control group.
 */
import { TidemarkError } from '../core/errors.js';
import { deadManScript } from './dead-man-script.js';
import type { GuestSession } from './guest-session.js';

const callMs = 10_000;
const namePrefix = 'tidemark-deadman-';

export interface ArmedDeadMan {
  /** True: it never fired, and is gone. False: it fired; all is released. Throws when there is no proof. */
  cancel(): Promise<boolean>;
}

/** Arms it; from now on the guest is released after `holdMs` at the latest. `sessions`: pids that it kills. */
export async function armDeadMan(
  guest: GuestSession,
  { id, holdMs, sessions }: { readonly id: string; readonly holdMs: number; readonly sessions: readonly number[] },
): Promise<ArmedDeadMan> {
  const name = `${namePrefix}${id}`;
  const answer = await perl(guest, ['arm', name, String(Math.ceil(holdMs / 1000)), ...sessions.map(String)]);
  if (!/^armed \d+$/m.test(answer))
    throw new TidemarkError('hook-failed', `The dead man says ${answer.slice(0, 200)}.`);
  return {
    cancel: async () => {
      const said = (await perl(guest, ['cancel', name])).trim();
      if (said === 'unfired' || said === 'fired') return said === 'unfired';
      throw new TidemarkError(
        'hook-failed',
        `The dead man says ${JSON.stringify(said.slice(0, 200))} when it is cancelled.`,
      );
    },
  };
}

/** Makes every dead man that an earlier agent left release what it holds, and end; returns how many there were. */
export async function endDeadMen(guest: GuestSession): Promise<number> {
  const said = await perl(guest, ['end', namePrefix]);
  const count = /^ended (\d+)$/m.exec(said)?.[1];
  if (count === undefined) throw new TidemarkError('hook-failed', `The dead men say ${said.slice(0, 200)}.`);
  return Number(count);
}

async function perl(guest: GuestSession, args: readonly string[]): Promise<string> {
  const command = ['/bin/sh', '-c', 'exec perl -e "$0" "$(uname -m)" "$@"', deadManScript, ...args];
  const { exitCode, stdout, stderr } = await guest.run(command, { timeoutMs: callMs });
  if (exitCode === 0) return stdout;
  const why = exitCode === 127 ? 'perl is not installed' : stderr.slice(-500) || `it ended with ${exitCode}`;
  throw new TidemarkError('hook-failed', `The dead man in the guest: ${why}`);
}
