/** Groups as the API shows them: source and target in one list; a name is unique within an agent whatever the role. */
import { z } from 'zod';
import { checkpointSchema } from './checkpoint-schemas.js';
import { apiErrorSchema } from './error-schema.js';
import { operationKindSchema, progressSchema } from './operation-schemas.js';
import { bytesSchema, checkpointIdSchema, countSchema, nameSchema, secondsSchema, timeMsSchema } from './scalars.js';
import { viewStatusSchema } from './view-schemas.js';

/**
 * Source: initial, protecting, resyncing, disconnected, fenced, forked. Target: initial (no complete checkpoint yet),
 * protecting, resyncing, disconnected, paused (out of space), failed-over, committing, committed, reversed, forked.
 */
export const groupStateSchema = z.enum([
  'initial',
  'protecting',
  'resyncing',
  'disconnected',
  'paused',
  'failed-over',
  'committing',
  'committed',
  'reversed',
  'fenced',
  'forked',
]);
export type GroupState = z.infer<typeof groupStateSchema>;

/** How far the source retreated (design rule 1), best first. */
export const retreatStageSchema = z.enum(['buffer', 'spool', 'fold', 'bitmap']);

export const epochSchema = z.object({
  epoch: countSchema,
  branch: z.string(),
  parentBranch: z.string().nullable(),
  checkpoint: checkpointIdSchema.nullable().describe('Where it left its parent'),
  holder: z.enum(['source', 'target']),
  reason: z.string(),
  sinceMs: timeMsSchema,
});

export const linkSchema = z.object({
  peer: nameSchema.describe('The other agent'),
  stream: nameSchema.describe("The source agent's name"),
  address: z.string().nullable(),
  state: z.enum(['connected', 'connecting', 'waiting', 'refused', 'stopped']),
  stage: retreatStageSchema.nullable().describe('Only at the source'),
  connectedSinceMs: timeMsSchema.nullable(),
  incarnation: countSchema,
  sequenceGiven: countSchema,
  sequenceDurable: countSchema,
  bufferBytes: bytesSchema,
  bufferBytesMax: bytesSchema,
  spoolBytes: bytesSchema,
  spoolBytesMax: bytesSchema,
  dirtyBytes: bytesSchema.describe('In the bitmap, to be synced'),
  bytesPerSecond: z.number().nonnegative().describe('On the wire, averaged over the last seconds'),
  throttleBytesPerSecond: z.number().positive().nullable(),
  clockOffsetMs: z.number().nullable().describe("The peer's clock minus ours, estimated"),
  lastError: apiErrorSchema.nullable(),
});
export type LinkView = z.infer<typeof linkSchema>;

export const diskStatusSchema = z.object({
  name: nameSchema,
  index: countSchema,
  sizeBytes: bytesSchema,
  stream: nameSchema,
  state: z.enum(['attached', 'detached', 'syncing', 'removed']),
  exportName: z.string().nullable().describe('Capture export; only at the source'),
  exportUri: z.string().nullable(),
  replica: z
    .object({
      checkpoint: checkpointIdSchema.nullable().describe('The replica holds exactly this; null: none yet'),
      sourceTimeMs: timeMsSchema.nullable(),
      allocatedBytes: bytesSchema,
    })
    .nullable()
    .describe('Only at the target'),
});

/** A VM whose disks the source agent attaches. */
export const vmAttachmentSchema = z.object({
  vm: z.string(),
  uuid: z.string().describe('Empty: not known here'),
  hypervisor: nameSchema,
  state: z
    .enum(['searching', 'off', 'attaching', 'attached', 'waiting', 'refused', 'released', 'held-back', 'elsewhere'])
    .describe('held-back: let go because the agent hung. elsewhere: it may be at another host, and does not run here'),
  releasedUntilMs: timeMsSchema.nullable(),
  lastError: apiErrorSchema.nullable(),
  disks: z.array(
    z.object({
      disk: nameSchema,
      target: z.string(),
      attached: z.boolean(),
      sync: z.enum(['bitmap', 'compare']).nullable().describe('How the last attach knew what had been missed'),
      returnsBy: z
        .enum(['bitmap', 'compare'])
        .describe('What a restart of the agent would read: what a bitmap marks, or all, compared by digests'),
    }),
  ),
});
export type VmAttachmentView = z.infer<typeof vmAttachmentSchema>;

export const syncStatusSchema = progressSchema.extend({
  id: z.string(),
  kind: z.enum(['initial', 'bitmap', 'delta', 'seed']).describe('seed: the replica is being made from a file here'),
  disks: z.array(nameSchema),
  startedMs: timeMsSchema,
});

export const journalStatusSchema = z.object({
  bytes: bytesSchema,
  hardLimitBytes: bytesSchema,
  pendingBytes: bytesSchema.describe('Received and not yet durable'),
  segmentCount: countSchema,
  recordCount: countSchema,
  checkpointCount: countSchema,
  oldestCheckpointMs: timeMsSchema.nullable(),
  encrypted: z.boolean(),
  freeBytes: bytesSchema.describe('On its file system, without the failover reserve'),
});

export const alertSchema = z.object({ code: z.string(), message: z.string(), hint: z.string(), sinceMs: timeMsSchema });

/** Hooks of a source group. */
export const hooksStatusSchema = z.object({
  vms: z.array(z.object({ vm: z.string(), tier: countSchema, kinds: z.array(z.string()) })),
  running: z.boolean().describe('An application checkpoint is being made'),
  nextMs: timeMsSchema.nullable().describe('When the next one is due; null: without a schedule'),
  missedCount: countSchema.describe('Due ones that were not made, since the schedule began'),
  missed: z
    .array(z.object({ dueMs: timeMsSchema, reason: z.enum(['agent-down', 'running', 'per-hour', 'not-taken']) }))
    .describe('The last of them, newest last'),
});
export type HooksStatus = z.infer<typeof hooksStatusSchema>;

export const groupStatusSchema = z.object({
  name: nameSchema,
  role: z.enum(['source', 'target']),
  state: groupStateSchema,
  actions: z.array(operationKindSchema).describe('Legal in this state'),
  alerts: z.array(alertSchema),
  owner: z.string().nullable().describe('Stack and URN, when Pulumi declared it'),
  policyRevision: countSchema.describe('Grows with every change of the settings'),
  epoch: epochSchema.nullable(),
  rpoSeconds: secondsSchema
    .nullable()
    .describe('Now minus source time of the newest durable checkpoint; null: none yet'),
  checkpointIntervalSeconds: secondsSchema,
  effectiveIntervalSeconds: secondsSchema.describe('Wider than the configured one while folding cannot keep up'),
  newestCheckpoint: checkpointSchema.nullable().describe('Newest durable and complete'),
  disks: z.array(diskStatusSchema),
  links: z.array(linkSchema),
  vms: z.array(vmAttachmentSchema).optional().describe('Only at the source'),
  hooks: hooksStatusSchema.optional().describe('Only at the source, of a group with hooks'),
  syncs: z.array(syncStatusSchema),
  journal: journalStatusSchema.nullable().describe('Only at the target'),
  views: z.array(viewStatusSchema),
  lastOperation: z.string().nullable(),
});
export type GroupStatus = z.infer<typeof groupStatusSchema>;
