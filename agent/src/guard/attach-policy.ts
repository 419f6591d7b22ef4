/**
 * May the disks of a group be attached again after the guard let them go? Each let-go costs the guest up to a stall and
 * the group its protection until it is synced: so attaching backs off, and after three in an hour it stops until a person
 * says otherwise. Pure; the records and the clock are the caller's.
 */
export const letGoCountMax = 3;
export const letGoWindowMs = 3_600_000;
/** After the first and the second let-go of a window. */
export const backOffMs = [5_000, 60_000] as const;

export type AttachVerdict =
  | { readonly kind: 'now' }
  | { readonly kind: 'wait'; readonly waitMs: number; readonly letGoCount: number }
  /** Stays until a person attaches. `sinceMs`: wall clock. */
  | { readonly kind: 'detached'; readonly sinceMs: number };

/**
 * `letGoMs`: wall times of the group's let-goes, in any order. `resumedMs`: when a person last attached; what was before
 * counts no more. A record from the future (the clock was set back) counts as of now.
 */
export function attachVerdict(letGoMs: readonly number[], resumedMs: number, nowMs: number): AttachVerdict {
  const times = letGoMs.filter((ms) => ms > resumedMs).sort((a, b) => a - b);
  for (let last = letGoCountMax - 1; last < times.length; last++) {
    const sinceMs = times[last] ?? 0;
    if (sinceMs - (times[last - letGoCountMax + 1] ?? 0) <= letGoWindowMs) return { kind: 'detached', sinceMs };
  }
  const recent = times.filter((ms) => nowMs - ms < letGoWindowMs);
  const newestMs = recent.at(-1);
  if (newestMs === undefined) return { kind: 'now' };
  const backMs = backOffMs[recent.length - 1] ?? backOffMs[1];
  const waitMs = backMs - Math.max(0, nowMs - newestMs);
  return waitMs <= 0 ? { kind: 'now' } : { kind: 'wait', waitMs, letGoCount: recent.length };
}
