/** What an application checkpoint recorded, for a person. */
import { z } from 'zod';
import type { Checkpoint } from '../service/checkpoint-schemas.js';
import { formatTable } from './format.js';

/** The part of the record that is shown; the whole of it is in --json. */
const recordSchema = z.object({
  proven: z.boolean(),
  markUs: z.number().default(0),
  flushedBytes: z.number().default(0),
  vms: z
    .array(
      z.object({
        vm: z.string(),
        hooks: z.array(z.string()),
        quiesceMs: z.number(),
        holdMs: z.number(),
        verifiedBy: z.array(z.string()),
      }),
    )
    .default([]),
  reasons: z.array(z.object({ vm: z.string(), step: z.string(), reason: z.string() })).default([]),
});

/** Empty when the checkpoint was not made through hooks. */
export function applicationText({ attributes }: Checkpoint): string {
  const parsed = recordSchema.safeParse(attributes['application']);
  if (!parsed.success) return '';
  const { proven, markUs, flushedBytes, vms, reasons } = parsed.data;
  const rows = vms.map((each) => [
    each.vm,
    each.hooks.join(' '),
    `${each.quiesceMs.toFixed(1)} ms`,
    `${each.holdMs.toFixed(1)} ms`,
    each.verifiedBy.join('; '),
  ]);
  const table = rows.length === 0 ? '' : formatTable(['VM', 'HOOKS', 'QUIESCE', 'HELD', 'VERIFIED BY'], rows);
  const told = `marked in ${markUs} \u00b5s, ${flushedBytes} bytes written while held\n`;
  const why = reasons.map(({ vm, step, reason }) => `only crash-consistent: ${vm} ${step}: ${reason}\n`).join('');
  return proven ? `${table}${told}` : `${table}${why}`;
}
