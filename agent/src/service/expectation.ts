/** What a caller believed of a group when it decided. */
import { z } from 'zod';
import { countSchema } from './scalars.js';

/** The agent refuses with `stale-epoch` / `stale-revision` when it is not so any more. */
export const expectationSchema = z.strictObject({
  epoch: countSchema.optional(),
  policyRevision: countSchema.optional(),
});
export type Expectation = z.infer<typeof expectationSchema>;
