/** What a person sets for a group at the target. Sent by the API, kept in the manifest. */
import { z } from 'zod';
import { recoverySpecSchema } from '../service/recovery-spec.js';
import { defaultRetention, type RetentionPolicy } from './retention.js';

export const groupSettingsSchema = z.strictObject({
  checkpointIntervalMs: z.number().int().min(1000).default(5000).describe('Time between crash checkpoints.'),
  tiers: z
    .array(z.strictObject({ untilAgeMs: z.number().positive(), everyMs: z.number().nonnegative() }))
    .min(1)
    .default(defaultRetention.tiers.map((tier) => ({ ...tier })))
    .describe('Thinning tiers in order of age.'),
  namedAgeMs: z
    .number()
    .nonnegative()
    .default(defaultRetention.namedAgeMs)
    .describe('Age to which application and tagged checkpoints are kept.'),
  hardLimitBytes: z
    .number()
    .int()
    .positive()
    .default(100 * 1024 ** 3)
    .describe('Bytes of journal that are never exceeded.'),
  segmentBytes: z
    .number()
    .int()
    .positive()
    .default(64 * 1024 ** 2)
    .describe('Size of a journal segment.'),
  upkeepIntervalMs: z
    .number()
    .int()
    .positive()
    .default(1000)
    .describe('Time between rounds of thinning and promotion.'),
  holdMsMax: z.number().positive().max(1000).default(100).describe('Longest hold of acknowledgements in a barrier.'),
  scrubPassDays: z
    .number()
    .nonnegative()
    .default(7)
    .describe('Days in which every byte of the replica is checked against its digest; 0: never'),
  rollbackKeepHours: z.number().nonnegative().default(168).describe('Hours for which a rolled back scratch is kept.'),
  scratchLimitBytes: z
    .number()
    .int()
    .positive()
    .default(10 * 1024 ** 3)
    .describe('Scratch of a view unless asked otherwise.'),
  manifestBytes: z
    .number()
    .int()
    .positive()
    .default(8 * 1024 ** 2)
    .describe('Size at which the manifest is rewritten as a snapshot'),
  failoverReserve: z
    .number()
    .min(0)
    .max(1)
    .default(0.1)
    .describe('Share of the replica kept free on the file system, closed to the journal'),
  newDisks: z
    .enum(['accept', 'refuse'])
    .default('accept')
    .describe('What becomes of a disk that a source adds; refuse: only those in declaredDisks'),
  diskSizeMax: z
    .number()
    .int()
    .positive()
    .default(64 * 1024 ** 4)
    .describe('Bytes to which a source may grow a disk, or add one'),
  declaredDisks: z.array(z.string()).max(256).default([]).describe('Names of the disks that a person declared'),
  recovery: recoverySpecSchema.nullable().default(null).describe('How VMs come back; null: disks only'),
  owner: z.string().nullable().default(null).describe('Stack and URN that declared the group'),
  policyRevision: z.number().int().nonnegative().default(1).describe('Grows with every change of these settings'),
});
export type GroupSettings = z.infer<typeof groupSettingsSchema>;

export function retentionOf(settings: GroupSettings): RetentionPolicy {
  return { tiers: settings.tiers, namedAgeMs: settings.namedAgeMs };
}
