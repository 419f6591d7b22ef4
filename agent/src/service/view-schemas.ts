/** Views as the API opens and shows them. */
import { z } from 'zod';
import { checkpointSelectorSchema } from './checkpoint-schemas.js';
import {
  bytesSchema,
  checkpointIdSchema,
  countSchema,
  labelSchema,
  nameSchema,
  shownIdSchema,
  timeMsSchema,
} from './scalars.js';

export const viewPurposeSchema = z.enum(['drill', 'browse', 'production', 'named']);

/** `id` is the caller's: the same id with the same arguments is the same view, with others `operation-conflict`. */
export const viewRequestSchema = z.strictObject({
  id: nameSchema,
  at: checkpointSelectorSchema.default({ by: 'latest' }),
  purpose: z.enum(['drill', 'browse']).default('browse'),
  scratchLimitBytes: bytesSchema.optional().describe("Default: the group's scratchLimitBytes"),
  label: labelSchema.optional(),
});
export type ViewRequest = z.infer<typeof viewRequestSchema>;

export const viewStatusSchema = z.object({
  id: shownIdSchema,
  group: nameSchema,
  checkpoint: checkpointIdSchema,
  sourceTimeMs: timeMsSchema,
  purpose: viewPurposeSchema,
  label: z.string().nullable(),
  state: z.enum(['open', 'closing', 'kept']).describe('kept: scratch of a rollback, not exported'),
  openedMs: timeMsSchema,
  scratchBytes: bytesSchema,
  scratchLimitBytes: bytesSchema,
  clientCount: countSchema.describe('NBD connections at this moment'),
  disks: z.array(
    z.object({
      name: nameSchema,
      sizeBytes: bytesSchema,
      exportName: z.string(),
      uri: z.string().describe('NBD URI on the agent host (nbd+unix)'),
      tlsUri: z.string().nullable().describe('NBD URI over TCP with TLS (nbds), when the agent listens there'),
    }),
  ),
});
export type ViewStatus = z.infer<typeof viewStatusSchema>;
