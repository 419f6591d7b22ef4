/**
 * What the hooks of a VM's application checkpoints must do once it is recovered, before it counts as ready: also in drills, and
 * from crash checkpoints, which may lie in the middle of what a hook began. A module without statements for it is left out.
 */
import { sleep } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { GuestAgentSession } from '../hooks/guest-agent-session.js';
import type { HookStep } from '../hooks/hook.js';
import { createHook, hookModules } from '../hooks/registry.js';
import type { HookSettings } from '../hooks/settings.js';
import { isWindows } from '../hooks/vss-settings.js';
import type { GuestAgent } from '../hypervisor/guest-agent.js';
import type { Guest } from './guest.js';
import type { CheckResult } from './readiness.js';

const againMs = 1000;

export function hasAfterRecovery({ kind }: HookSettings): boolean {
  return hookModules[kind].document.statements.some(({ step }) => step === 'afterRecovery');
}

/** Tried until it succeeds or `prepareSeconds` of the settings are over: the application may still be starting. */
export async function runAfterRecovery(
  guest: Guest,
  vm: string,
  settings: HookSettings,
  signal: AbortSignal,
): Promise<CheckResult> {
  const { clock } = guest;
  const agent = agentOf(guest);
  const startedMs = clock.monotonicMs();
  const untilMs = startedMs + settings.prepareSeconds * 1000;
  const done = (ok: boolean, detail: string): CheckResult => ({
    check: `afterRecovery ${settings.kind}`,
    ok,
    tookMs: Math.round(clock.monotonicMs() - startedMs),
    detail: detail.trim().slice(0, 1000),
  });
  const step: HookStep = {
    ...{ vm, agent, clock, signal, guest: new GuestAgentSession(agent, clock), isWindows: isWindows([settings]) },
    leftMs: () => Math.max(1, untilMs - clock.monotonicMs()),
    // It was asked when the point was made.
    unprotected: () => Promise.resolve([]),
  };
  for (;;) {
    try {
      await createHook(settings).afterRecovery(step);
      return done(true, '');
    } catch (error) {
      if (!(error instanceof TidemarkError) || signal.aborted) throw error;
      if (clock.monotonicMs() + againMs >= untilMs) return done(false, error.message);
    }
    await sleep(clock, againMs, signal);
  }
}

function agentOf({ driver, uuid }: Guest): GuestAgent {
  return {
    call: (command, args, timeoutMs) => driver.agent(uuid, command, args, timeoutMs),
    warm: () => Promise.resolve(),
    close: () => undefined,
    ...{ writtenMs: Number.NaN, repliedMs: Number.NaN },
  };
}
