/** Waiting on a condition by a deadline; never a sleep for luck. */
import { setTimeout as sleep } from 'node:timers/promises';

export interface WaitOptions {
  /** Default 30 s. */
  readonly timeoutMs?: number;
  /** From one look to the next. Default 20 ms. */
  readonly everyMs?: number;
}

/**
 * Calls `check` until it gives something else than undefined, null or false, and resolves with that. A throw counts as
 * "not yet"; at the deadline the last one is the cause of the failure.
 */
export async function waitFor<Value>(
  what: string,
  check: () => Promise<Value> | Value,
  { timeoutMs = 30_000, everyMs = 20 }: WaitOptions = {},
): Promise<Exclude<Value, undefined | null | false>> {
  const deadlineMs = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await check();
      if (value !== undefined && value !== null && value !== false)
        return value as Exclude<Value, undefined | null | false>;
      last = undefined;
    } catch (error) {
      if (error instanceof GiveUp) throw error;
      last = error;
    }
    if (performance.now() > deadlineMs)
      throw new Error(`${what}: not within ${timeoutMs / 1000} s`, last === undefined ? {} : { cause: last });
    await sleep(everyMs);
  }
}

/** Thrown by a check that knows that waiting on is useless. */
export class GiveUp extends Error {}
