/** Settings that every kind of hook has. */
import { z } from 'zod';

const timeoutSeconds = z.number().min(0.1).max(600);

export const stepLimits = {
  prepareSeconds: timeoutSeconds.default(60).describe('Seconds for the work before the hold'),
  quiesceSeconds: timeoutSeconds
    .default(10)
    .describe('Seconds; a quiesce that takes longer is called off, and the point is crash'),
};

export const secretFile = z
  .string()
  .max(4096)
  .regex(/^\/[^\0]*$/, 'an absolute path')
  .optional();
