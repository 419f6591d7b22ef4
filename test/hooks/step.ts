/** A step of a hook as a test calls it. */
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { GuestAgent } from '../../agent/src/hypervisor/guest-agent.js';
import type { GuestSession } from '../../agent/src/hooks/guest-session.js';
import type { Finding, HookStep } from '../../agent/src/hooks/hook.js';

/** `unprotectedPaths`: those that lie on no captured disk. */
export function hookStep(
  guest: GuestSession,
  {
    agent,
    unprotectedPaths = [],
    isWindows = false,
  }: { agent?: GuestAgent; unprotectedPaths?: readonly string[]; isWindows?: boolean } = {},
): HookStep {
  return {
    ...{ vm: 'db', guest, agent, isWindows, clock: nodeClock, signal: new AbortController().signal },
    leftMs: () => 5000,
    unprotected: (paths): Promise<Finding[]> =>
      Promise.resolve(
        paths
          .filter((path) => unprotectedPaths.includes(path))
          .map((path) => ({ code: 'data-unprotected', reason: `${path} lies on no captured disk` })),
      ),
  };
}
