/** The RPO of a group over the last day, as its agent saw it. */
import { z } from 'zod';
import { nameSchema, secondsSchema, timeMsSchema } from './scalars.js';

export const rpoQuerySchema = z.strictObject({
  fromMs: z.coerce.number().pipe(timeMsSchema).optional().describe('Default: all that is kept, a day'),
});
export type RpoQuery = z.infer<typeof rpoQuerySchema>;

export const rpoHistorySchema = z.object({
  group: nameSchema,
  slotSeconds: secondsSchema.describe('Length of a slot'),
  checkpointIntervalSeconds: secondsSchema,
  slots: z
    .array(
      z.object({
        atMs: timeMsSchema.describe('When the slot began'),
        rpoSeconds: secondsSchema.nullable().describe('The worst in it; null: there was no durable checkpoint'),
      }),
    )
    .describe('Oldest first. Where one is missing the agent did not run, or had not this group'),
});
export type RpoHistory = z.infer<typeof rpoHistorySchema>;
