/**
 * Operations: what changes a group's life. The caller gives the id: the same id with the same request is the same
 * operation (its present state is answered), with another request it is `operation-conflict`. Kept in the group's
 * manifest, so that they resume after a kill and a lost database forgets none.
 */
import { z } from 'zod';
import { checkpointSelectorSchema } from './checkpoint-schemas.js';
import { apiErrorSchema } from './error-schema.js';
import { expectationSchema } from './expectation.js';
import { diskSizeSchema, historySchema, intervalSchema } from './group-spec.js';
import { drillChecksSchema, siteRecoverySchema } from './recovery-spec.js';
import { bytesSchema, countSchema, nameSchema, operationIdSchema, secondsSchema, timeMsSchema } from './scalars.js';
import { sizeSchema } from './sizes.js';

const absolutePath = z
  .string()
  .max(4096)
  .regex(/^\/[^\0]*$/, 'an absolute path on the agent host');

function request<Kind extends string, Arguments extends z.ZodObject>(kind: Kind, args: Arguments) {
  return z.strictObject({
    kind: z.literal(kind),
    group: nameSchema,
    expect: expectationSchema.optional(),
    arguments: args,
  });
}

const none = z.strictObject({});

const reverseShape = {
  discardSource: z
    .boolean()
    .default(false)
    .describe('Ends VMs that still run where the group came from; without it they are a `split`'),
  keepOldDisksDays: z
    .number()
    .min(0)
    .max(365)
    .default(7)
    .describe('Days that history, and disks that an earlier recovery made, stay; files of a person are never deleted'),
  encryptionKeyFile: absolutePath
    .optional()
    .describe('Key file on the host of the other agent; needed when the group is encrypted here'),
};
const reverseArguments = z.strictObject({
  ...reverseShape,
  recovery: siteRecoverySchema
    .optional()
    .describe('How VMs come back there. Default: as here, with the networks the other way round and addresses kept'),
});
export type ReverseArguments = z.infer<typeof reverseArguments>;
/** What the group at the other site has of this one's. */
const policySchema = z.strictObject({
  history: historySchema,
  checkpointIntervalSeconds: intervalSchema,
  newDisks: z.enum(['accept', 'refuse']),
  diskSizeMax: sizeSchema,
});

const stopArguments = z.strictObject({
  timeoutSeconds: z.number().min(1).max(7200).default(120).describe('Until a guest that was asked must be off'),
  force: z
    .enum(['refuse', 'stop'])
    .default('refuse')
    .describe('A guest that is not off in time: refuse: all are started again; stop: it is ended'),
  sourceStopped: z
    .boolean()
    .default(false)
    .describe('A person has stopped what writes to the disks that are not of VMs'),
  drainSeconds: z.number().min(1).max(86_400).default(600).describe('Until all that was written must have arrived'),
});
export type StopArguments = z.infer<typeof stopArguments>;

export const operationRequestSchema = z.discriminatedUnion('kind', [
  request(
    'failover',
    z.strictObject({
      at: checkpointSelectorSchema.default({ by: 'latest' }),
      sourceMayBeAlive: z
        .boolean()
        .default(false)
        .describe('Go on although the source was not confirmed to be stopped'),
      maxDataLossSeconds: secondsSchema.optional().describe('Refuse when more would be lost at execution'),
    }),
  ),
  /**
   * Planned failover: the source's VMs are shut down in reverse boot order, what they wrote last arrives here, and the
   * failover takes exactly that. When anything fails before, they are started again.
   */
  request('move', stopArguments),
  /** At the source agent: shuts the group's VMs down and sends all that they wrote; the last checkpoint is in the result. */
  request(
    'stop-vms',
    stopArguments.extend({
      order: z
        .array(z.array(z.string().min(1).max(256)).max(256))
        .max(100)
        .default([])
        .describe('Names of VMs, those of a list at a time. VMs that are not named come first'),
      target: nameSchema
        .optional()
        .describe('Peer that shall have it all. Default: the only target, or the peer who asks'),
    }),
  ),
  /** At the source agent: starts again what a `stop-vms` has stopped, and calls that off. */
  request('start-vms', z.strictObject({ stop: operationIdSchema.describe('Operation id of the stop-vms') })),
  request(
    'rollback',
    z.strictObject({
      keepHours: z
        .number()
        .min(0)
        .max(8760)
        .optional()
        .describe("Hours that scratch stays as a named point. Default: the group's rollbackKeepHours"),
    }),
  ),
  request('commit', none),
  /**
   * After a commit: the site that the group came from protects the VMs that run here. Its old disks are where the first
   * sync begins, so only what differs is sent.
   */
  request('reverse', reverseArguments),
  /** At the site that shall protect from now on; a `reverse` asks for it by itself. */
  request(
    'take-over',
    z.strictObject({
      parent: z.strictObject({ epoch: countSchema.min(1), branch: z.string().regex(/^[0-9a-f]{16}$/) }),
      disks: z
        .array(z.strictObject({ name: nameSchema, sizeBytes: diskSizeSchema }))
        .min(1)
        .max(256),
      policy: policySchema,
      recovery: siteRecoverySchema,
      ...reverseShape,
    }),
  ),
  /** After a failover: boots what does not run, and checks again. */
  request('boot', none),
  /** Boots the VMs of a checkpoint apart from everything, checks them, and leaves nothing behind. */
  request(
    'drill',
    z.strictObject({
      at: checkpointSelectorSchema.default({ by: 'latest' }),
      vms: z
        .array(z.string().min(1).max(256))
        .min(1)
        .max(256)
        .optional()
        .describe('Names of VMs. Default: all that recovery lists'),
      keepMinutes: z
        .number()
        .min(0)
        .max(10_080)
        .default(0)
        .describe('Minutes that the VMs stay after their checks; 0: gone at once'),
      checks: drillChecksSchema.optional(),
      maxDurationMinutes: z
        .number()
        .min(0.01)
        .max(10_080)
        .optional()
        .describe('After so long it is torn down, whatever it is at, and has failed; VMs that are kept go then, too'),
      scratchLimitBytes: bytesSchema.optional().describe("Default: the group's scratchLimitBytes"),
    }),
  ),
  /** Ends a drill that runs or is kept. */
  request('drill-stop', z.strictObject({ drill: operationIdSchema.describe('Operation id of the drill') })),
  request(
    'resolve-fork',
    z.strictObject({
      keep: z.enum(['source', 'target']),
      branch: z
        .string()
        .regex(/^[0-9a-f]{16}$/)
        .optional(),
    }),
  ),
  request('pin', z.strictObject({ pin: nameSchema, at: checkpointSelectorSchema, reason: z.string().min(1).max(256) })),
  request('unpin', z.strictObject({ pin: nameSchema })),
  /** Gives up a disk that its source does not send any more; checkpoints that have it keep it. */
  request('forget-disk', z.strictObject({ disk: nameSchema })),
  request(
    'verify',
    z.strictObject({
      journal: z.boolean().default(true),
      replica: z.boolean().default(true),
      at: checkpointSelectorSchema.optional(),
    }),
  ),
  request('sync', z.strictObject({ disks: z.array(nameSchema).max(256).optional().describe('Default: all') })),
  request(
    'export',
    z.strictObject({
      at: checkpointSelectorSchema.default({ by: 'latest' }),
      format: z.enum(['raw', 'qcow2']),
      directory: absolutePath.describe(
        'Existing directory on the agent host; one file for each disk, never overwritten',
      ),
      disks: z.array(nameSchema).max(256).optional(),
    }),
  ),
  /** Remakes the catalogue (an index) from the group's manifest and journal. */
  request('rebuild', none),
  /** Takes the journal directory of a dead appliance over as the group of that name. */
  request('adopt', z.strictObject({ directory: absolutePath, encryptionKeyFile: absolutePath.optional() })),
]);
export type OperationRequest = z.infer<typeof operationRequestSchema>;
export type OperationKind = OperationRequest['kind'];
export const operationKinds = operationRequestSchema.options.map(
  (option) => option.shape.kind.value,
) as OperationKind[];
export const operationKindSchema = z.enum(operationKinds as [OperationKind, ...OperationKind[]]);

export const operationStateSchema = z.enum(['running', 'succeeded', 'failed', 'cancelled']);

export const progressSchema = z.object({
  doneBytes: bytesSchema,
  totalBytes: bytesSchema,
  bytesPerSecond: z.number().nonnegative(),
  secondsLeft: z.number().nonnegative().nullable().describe('null: cannot be told yet'),
});
export type Progress = z.infer<typeof progressSchema>;

export const operationSchema = z.object({
  id: operationIdSchema,
  kind: operationKindSchema,
  group: nameSchema,
  arguments: z.record(z.string(), z.unknown()),
  state: operationStateSchema,
  step: z.string().describe('The step it is at, or ended with'),
  revision: countSchema.describe('Grows with every change of this operation; for waiting'),
  progress: progressSchema.nullable(),
  startedMs: timeMsSchema,
  finishedMs: timeMsSchema.nullable(),
  drivenBy: z.string().describe('Certificate name of the caller'),
  result: z.record(z.string(), z.unknown()).nullable(),
  error: apiErrorSchema.nullable(),
});
export type Operation = z.infer<typeof operationSchema>;

export const operationQuerySchema = z.strictObject({
  group: nameSchema.optional(),
  kind: operationKindSchema.optional(),
  state: operationStateSchema.optional(),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
  before: operationIdSchema.optional().describe('`next` of the page before'),
});
export type OperationQuery = z.infer<typeof operationQuerySchema>;

export const operationPageSchema = z.object({
  operations: z.array(operationSchema),
  next: operationIdSchema.nullable(),
});
export type OperationPage = z.infer<typeof operationPageSchema>;

/** Answers at once when the operation has ended or its revision is above `afterRevision`. */
export const operationWaitSchema = z.strictObject({
  afterRevision: z.coerce.number().int().nonnegative().optional(),
  waitSeconds: z.coerce.number().min(0).max(30).default(0),
});
