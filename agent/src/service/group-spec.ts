/** What a person declares of a target group: by the configuration file or by the API, the same schema. */
import { z } from 'zod';
import { expectationSchema } from './expectation.js';
import { recoverySpecSchema } from './recovery-spec.js';
import { nameSchema, timeMsSchema } from './scalars.js';
import { sizeSchema } from './sizes.js';

const GiB = 1024 ** 3;

export const intervalSchema = z
  .number()
  .min(1)
  .max(86_400)
  .default(5)
  .describe('Seconds from one crash checkpoint to the next, at least 1');

export const diskSizeSchema = sizeSchema
  .refine((bytes) => bytes >= 512 && bytes % 512 === 0, 'a disk has a multiple of 512 bytes, at least 512')
  .describe('Bytes (or e.g. 20GiB), a multiple of 512');

/** From `olderThanSeconds` on, one checkpoint in `everySeconds` is kept; a tier reaches to where the next begins. */
export const tierSchema = z.strictObject({
  olderThanSeconds: z.number().int().positive(),
  everySeconds: z.number().int().min(1),
});

/** Design rule 11: all for 4 h, one a minute for 24 h, one an hour for 30 d. */
export const defaultTiers = [
  { olderThanSeconds: 4 * 3600, everySeconds: 60 },
  { olderThanSeconds: 24 * 3600, everySeconds: 3600 },
];

export const historySchema = z
  .strictObject({
    windowSeconds: z
      .number()
      .int()
      .min(60)
      .default(30 * 86_400)
      .describe('Checkpoints older than this are dropped, unless pinned'),
    namedWindowSeconds: z
      .number()
      .int()
      .min(60)
      .optional()
      .describe(
        'Application and tagged checkpoints are kept so long, whatever windowSeconds and tiers say. Default: windowSeconds',
      ),
    tiers: z
      .array(tierSchema)
      .max(16)
      .default(defaultTiers)
      .refine(
        (tiers) => tiers.every((tier, i) => i === 0 || tier.olderThanSeconds > tiers[i - 1]!.olderThanSeconds),
        'tiers go from younger to older',
      )
      .describe('Thinning by age, from younger to older; below the first tier all are kept'),
    hardLimitBytes: sizeSchema.default(100 * GiB).describe('The journal never takes more'),
    failoverReserve: z
      .number()
      .min(0)
      .max(1)
      .default(0.1)
      .describe('Share of the replica kept free for the scratch of a failover, closed to the journal'),
    scratchLimitBytes: sizeSchema.default(10 * GiB).describe('Default bound of the private writes of a view'),
    scrubPassDays: z
      .number()
      .min(0)
      .max(365)
      .default(7)
      .describe('Days in which every byte of the replica is checked against its digest; 0: never'),
    rollbackKeepHours: z.number().min(0).max(8760).default(168).describe('Hours that the scratch of a rollback stays'),
  })
  .prefault({});

export const targetDiskSchema = z.strictObject({
  name: nameSchema,
  sizeBytes: diskSizeSchema,
  stream: nameSchema.describe('The source agent that sends this disk'),
  seed: z
    .string()
    .max(4096)
    .regex(/^\/[^\0]*$/, 'an absolute path')
    .optional()
    .describe(
      'Raw file on the agent host that the replica of a new group is made from, so that the first sync sends only what differs. It is not changed',
    ),
});

/** Milliseconds that a checkpoint over several source agents may hold acknowledgements. */
export const holdMsMaxDefault = 100;

const targetGroupShape = z.strictObject({
  streams: z.array(nameSchema).min(1).max(64).describe('Source agents of the group, by certificate name'),
  disks: z
    .array(targetDiskSchema)
    .min(1)
    .max(256)
    .describe(
      'Disks, with their sizes, when the group is created. Later the source grows, adds and removes disks; a declaration takes none away',
    ),
  newDisks: z
    .enum(['accept', 'refuse'])
    .default('accept')
    .describe('What becomes of a disk that a source adds. refuse: only those in disks are taken, others are left out'),
  diskSizeMax: sizeSchema
    .default(64 * 1024 * GiB)
    .describe('A source may grow a disk up to this; a larger one stays as it was and is missing from the checkpoints'),
  history: historySchema,
  checkpointIntervalSeconds: intervalSchema,
  holdMsMax: z
    .number()
    .min(1)
    .max(1000)
    .default(holdMsMaxDefault)
    .describe(
      'Groups of several source agents: milliseconds that a checkpoint may hold acknowledgements of writes. It needs one and a half round trips to the slowest agent',
    ),
  recovery: recoverySpecSchema.optional().describe('How VMs come back here; without it a failover serves disks only'),
  encryptionKeyFile: z
    .string()
    .min(1)
    .max(4096)
    .optional()
    .describe(
      'File on the agent host with 32 random bytes (64 hex digits); journal, replica and scratch are encrypted with it. Cannot change',
    ),
});

/** Checks that hold between properties; issues carry the path of the property to change. */
function checkGroup(
  spec: { streams: string[]; disks: { name: string; stream: string }[] },
  context: z.RefinementCtx,
): void {
  for (const [index, disk] of spec.disks.entries()) {
    if (spec.disks.findIndex((other) => other.name === disk.name) < index)
      context.addIssue({
        code: 'custom',
        path: ['disks', index, 'name'],
        message: `another disk is named ${disk.name}`,
      });
    if (!spec.streams.includes(disk.stream))
      context.addIssue({
        code: 'custom',
        path: ['disks', index, 'stream'],
        message: `${disk.stream} is not one of streams`,
      });
  }
  for (const [index, stream] of spec.streams.entries())
    if (spec.streams.indexOf(stream) < index)
      context.addIssue({ code: 'custom', path: ['streams', index], message: `${stream} is listed twice` });
}

export const targetGroupSpecSchema = targetGroupShape.superRefine(checkGroup);
export type TargetGroupSpec = z.infer<typeof targetGroupSpecSchema>;

export const targetGroupConfigSchema = targetGroupShape.extend({ name: nameSchema }).superRefine(checkGroup);
export type TargetGroupConfig = z.infer<typeof targetGroupConfigSchema>;

const ownerSchema = z.string().min(1).max(2048);

/** Declares or changes a target group. Repeating it changes nothing. */
export const declareGroupSchema = z.strictObject({
  spec: targetGroupSpecSchema,
  owner: ownerSchema.optional().describe('Stack and URN; another owner is refused with `group-exists`'),
  previousOwner: ownerSchema
    .optional()
    .describe('Owner that hands the group over to `owner` (a resource that was renamed)'),
  expect: expectationSchema.optional(),
});
export type DeclareGroup = z.infer<typeof declareGroupSchema>;

/** Journal and replica stay as retired for `graceDays`. */
export const removeGroupSchema = z.strictObject({
  owner: ownerSchema.optional(),
  graceDays: z.coerce.number().min(0).max(365).default(7),
  epoch: z.coerce
    .number()
    .int()
    .nonnegative()
    .optional()
    .describe('Refused with `stale-epoch` when the group has another'),
  policyRevision: z.coerce.number().int().nonnegative().optional(),
});
export type RemoveGroup = z.infer<typeof removeGroupSchema>;

/** What a target group runs by, as one would declare it. */
export const groupPolicySchema = z.object({
  spec: targetGroupSpecSchema,
  policyRevision: z.number().int().nonnegative(),
  owner: z.string().nullable(),
});
export type GroupPolicy = z.infer<typeof groupPolicySchema>;

/** A history whose journal and replica are still kept, and which nothing is added to. */
export const retiredGroupSchema = z.object({
  name: nameSchema,
  why: z
    .enum(['removed', 'reversed'])
    .default('removed')
    .describe('removed: by a person or a stack; reversed: closed, since the group is protected the other way'),
  untilMs: timeMsSchema
    .nullable()
    .describe('Deleted after this moment; null: not before the group is reversed to here again, or removed'),
  policy: groupPolicySchema.nullable().describe('What it ran by; null when that was not kept'),
});
export type RetiredGroup = z.infer<typeof retiredGroupSchema>;

/** Takes a removed group back as it was: journal, replica, operations, owner. */
export const restoreGroupSchema = z.strictObject({
  untilMs: timeMsSchema
    .optional()
    .describe('Which of several of that name. Default: of those that were removed the one that stays longest'),
  encryptionKeyFile: z
    .string()
    .min(1)
    .max(4096)
    .optional()
    .describe('On the agent host. Default: the file that the group was opened with'),
});
export type RestoreGroup = z.infer<typeof restoreGroupSchema>;
