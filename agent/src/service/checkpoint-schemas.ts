/** Checkpoints as the API shows, selects and makes them. */
import { z } from 'zod';
import { checkpointIdSchema, countSchema, labelSchema, shownIdSchema, timeMsSchema } from './scalars.js';

export const checkpointKindSchema = z.enum(['crash', 'application', 'tagged']);

export const checkpointSchema = z.object({
  id: checkpointIdSchema,
  kind: checkpointKindSchema,
  label: z.string().nullable(),
  sourceTimeMs: timeMsSchema.describe("The moment it shows, on the source's clock; monotonic within a group"),
  epoch: countSchema,
  diskCount: countSchema.describe('Disks of the group at that moment'),
  disksPresent: countSchema.describe('Disks that were there; fewer than diskCount while one syncs'),
  complete: z.boolean().describe('Every disk of the group is in it'),
  pins: z.array(z.object({ id: shownIdSchema, reason: z.string() })),
  attributes: z.record(z.string(), z.unknown()).describe('What hooks recorded, free of secrets'),
});
export type Checkpoint = z.infer<typeof checkpointSchema>;

/** Names one checkpoint. An incomplete one is never `latest` and needs `allowIncomplete` to be used. */
export const checkpointSelectorSchema = z.discriminatedUnion('by', [
  z.strictObject({ by: z.literal('latest') }).describe('The newest complete one'),
  z.strictObject({ by: z.literal('latest-application') }).describe('The newest complete one of kind application'),
  z.strictObject({ by: z.literal('id'), checkpoint: checkpointIdSchema, allowIncomplete: z.boolean().optional() }),
  z
    .strictObject({ by: z.literal('time'), timeMs: timeMsSchema })
    .describe('The newest complete one at or before the time'),
  z.strictObject({ by: z.literal('label'), label: labelSchema }).describe('The newest complete one with the label'),
]);
export type CheckpointSelector = z.infer<typeof checkpointSelectorSchema>;

export const checkpointLimitMax = 1000;

/** Newest first. A page's `next` is the following page's `before`. */
export const checkpointQuerySchema = z.strictObject({
  kind: checkpointKindSchema.optional(),
  label: labelSchema.optional(),
  fromMs: z.coerce.number().pipe(timeMsSchema).optional(),
  toMs: z.coerce.number().pipe(timeMsSchema).optional(),
  complete: z.stringbool().optional(),
  before: checkpointIdSchema.optional().describe('Only checkpoints older than this one'),
  limit: z.coerce.number().int().min(1).max(checkpointLimitMax).default(100),
});
export type CheckpointQuery = z.infer<typeof checkpointQuerySchema>;

export const checkpointPageSchema = z.object({
  checkpoints: z.array(checkpointSchema),
  next: checkpointIdSchema.nullable().describe('Give as `before` for the next page; null at the end'),
});
export type CheckpointPage = z.infer<typeof checkpointPageSchema>;

/**
 * `application` quiesces through the group's hooks, `tagged` marks at once. An application checkpoint whose hold could not be
 * proven comes back as `crash`, with the reasons in `attributes.application`.
 */
export const checkpointRequestSchema = z.strictObject({
  operationId: z.string().min(1).max(128).optional(),
  kind: z
    .enum(['application', 'tagged'])
    .optional()
    .describe('Default: application when the source group has hooks, else tagged'),
  label: labelSchema.optional(),
});
export type CheckpointRequest = z.infer<typeof checkpointRequestSchema>;
