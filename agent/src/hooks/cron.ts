/** Cron expressions of five fields, read in a time zone. */
import { Cron } from 'croner';

/** Why it cannot be used; undefined: it can. */
export function cronProblem(cron: string, timeZone: string): string | undefined {
  try {
    return new Cron(cron, { timezone: timeZone, mode: '5-part', paused: true }).nextRun() === null
      ? 'it never comes'
      : undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** The first moment after `afterMs` (both since the Unix epoch); undefined: never again. */
export function nextRunMs({ cron, timeZone }: { cron: string; timeZone: string }, afterMs: number): number | undefined {
  const next = new Cron(cron, { timezone: timeZone, mode: '5-part', paused: true }).nextRun(new Date(afterMs));
  return next?.getTime();
}
