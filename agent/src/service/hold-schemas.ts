/** One source agent's share of a hold over several source agents (hooks/joint-hold.ts), as its target asks for it. */
import { z } from 'zod';
import { countSchema } from './scalars.js';

export const holdIdSchema = z
  .string()
  .regex(/^[0-9a-f]{16}$/)
  .describe('Of one hold, chosen by the target');

export const holdStepSchema = z
  .discriminatedUnion('step', [
    z.strictObject({ step: z.literal('prepare') }).describe('Looks at the guests and does the work before the hold'),
    z.strictObject({ step: z.literal('arm') }).describe('The guests release themselves from here on, at the latest'),
    z.strictObject({ step: z.literal('quiesce'), tier: z.number().int().min(0) }).describe('Holds the VMs of one tier'),
    z.strictObject({ step: z.literal('release') }).describe('Lets go of all, in reverse'),
    z
      .strictObject({ step: z.literal('verify'), marked: z.boolean() })
      .describe('Proves the hold when a mark was placed; ends it in any case'),
  ])
  .describe('Steps come in this order; release and verify may come at any time');
export type HoldStepRequest = z.infer<typeof holdStepSchema>;

const textSchema = z.string().max(4096);
const nameList = z.array(z.string().max(256)).max(1000);
const msSchema = z.number().nonnegative();

/** What a share is at the end of a step. */
export const holdShareSchema = z.object({
  holdMsMax: msSchema.describe('From its first quiesce the share holds so long; then it lets go by itself'),
  tiers: z.array(z.number().int()).max(1000).describe('Of the VMs that it holds'),
  present: nameList.describe('Names and UUIDs of the VMs that it holds'),
  absent: nameList.describe('VMs with hooks that do not run here'),
  reasons: z
    .array(
      z.object({
        vm: z.string().max(256),
        step: z.enum(['prepare', 'arm', 'quiesce', 'mark', 'release', 'verify']),
        code: z.string().max(64),
        reason: textSchema,
      }),
    )
    .max(1000)
    .describe('Why the point is only crash-consistent'),
  vms: z
    .array(
      z.object({
        vm: z.string().max(256),
        tier: z.number().int(),
        hooks: z.array(z.string().max(64)).max(100),
        statements: z.array(textSchema).max(1000),
        prepareMs: msSchema,
        quiesceMs: msSchema,
        holdMs: msSchema,
        verifiedBy: z.array(textSchema).max(1000),
        facts: z.record(z.string(), z.union([z.string(), z.number()])),
      }),
    )
    .max(1000)
    .describe('What each VM recorded'),
  markUs: countSchema.describe('Time that the newest mark of the group took here, in microseconds'),
  flushedBytes: countSchema.describe('Captured from the first quiesce to the release'),
});
export type HoldShareState = z.infer<typeof holdShareSchema>;
