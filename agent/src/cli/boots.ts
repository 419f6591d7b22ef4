/** What a recovery did with each VM, as a table. */
import { z } from 'zod';
import { formatSeconds, formatTable } from './format.js';

/** As recovery records it; an agent of another version may say more. */
const bootsSchema = z
  .array(
    z.object({
      vm: z.string(),
      wave: z.number(),
      startedAfterMs: z.number().nullable(),
      readyAfterMs: z.number().nullable(),
      checks: z.array(z.object({ check: z.string(), ok: z.boolean() })),
    }),
  )
  .min(1);

/** Undefined: that is no list of boots. */
export function bootTable(value: unknown): string | undefined {
  const boots = bootsSchema.safeParse(value);
  if (!boots.success) return undefined;
  const after = (ms: number | null): string => (ms === null ? '-' : formatSeconds(ms / 1000));
  const rows = boots.data.map(({ vm, wave, startedAfterMs, readyAfterMs, checks }) => [
    vm,
    String(wave),
    after(startedAfterMs),
    after(readyAfterMs),
    checks.map(({ check, ok }) => `${ok ? 'ok' : 'FAILED'} ${check}`).join(', ') || '-',
  ]);
  return formatTable(['VM', 'WAVE', 'STARTED', 'READY', 'CHECKS'], rows);
}
