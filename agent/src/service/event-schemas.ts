/** Events: what happened, for people and programs; a bounded ring in the agent. */
import { z } from 'zod';
import { countSchema, nameSchema, timeMsSchema } from './scalars.js';

export const eventSchema = z.object({
  id: countSchema.describe('Grows by one for each event of this agent start; see `boot`'),
  timeMs: timeMsSchema,
  severity: z.enum(['info', 'warning', 'error']),
  code: z.string().describe('Stable, kebab-case'),
  group: nameSchema.nullable(),
  message: z.string(),
  attributes: z.record(z.string(), z.unknown()),
});
export type AgentEvent = z.infer<typeof eventSchema>;
export type NewEvent = Omit<AgentEvent, 'id' | 'timeMs'>;

export const eventLimitMax = 1000;

/** Events with an id above `after`, oldest first; waits up to `waitSeconds` (0: does not wait) for the first one. */
export const eventQuerySchema = z.strictObject({
  after: z.coerce.number().int().nonnegative().default(0),
  limit: z.coerce.number().int().min(1).max(eventLimitMax).default(100),
  waitSeconds: z.coerce.number().min(0).max(30).default(0),
  boot: z.string().max(64).optional().describe('When it is not the running agent start, `after` counts as 0'),
});
export type EventQuery = z.infer<typeof eventQuerySchema>;

export const eventPageSchema = z.object({
  boot: z.string().describe('Random for each start of the agent; ids of different boots do not compare'),
  events: z.array(eventSchema),
  next: countSchema.describe('Give as `after` next time'),
  lost: z.boolean().describe('Events after `after` had left the ring already'),
});
export type EventPage = z.infer<typeof eventPageSchema>;
