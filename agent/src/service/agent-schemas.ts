/** The agent itself: identity, health, peers. */
import { z } from 'zod';
import { countSchema, nameSchema, secondsSchema, timeMsSchema } from './scalars.js';

export const roleSchema = z.enum(['operator', 'peer', 'reader']);
export type Role = z.infer<typeof roleSchema>;

export const agentInfoSchema = z.object({
  site: nameSchema,
  name: nameSchema,
  version: z.string(),
  boot: z.string().describe('Random for each start'),
  startedMs: timeMsSchema,
  uptimeSeconds: secondsSchema,
  groupCount: countSchema,
  caller: z.object({ name: z.string(), role: roleSchema }).describe('Who the agent takes you for'),
});
export type AgentInfo = z.infer<typeof agentInfoSchema>;

export const healthSchema = z.object({
  ready: z.boolean().describe('Listeners are up and every group has been recovered'),
  checks: z.array(z.object({ name: z.string(), ok: z.boolean(), message: z.string() })),
});
export type Health = z.infer<typeof healthSchema>;

export const peerStatusSchema = z.object({
  name: nameSchema,
  address: z.string().nullable(),
  connected: z.boolean(),
  groups: z.array(nameSchema),
  clockOffsetMs: z.number().nullable(),
  lastSeenMs: timeMsSchema.nullable(),
});
export type PeerStatus = z.infer<typeof peerStatusSchema>;
