/** Settings of the hook `redis`. */
import { z } from 'zod';
import { secretFile, stepLimits } from './settings-common.js';

export const redisSettingsSchema = z
  .strictObject({
    kind: z.literal('redis'),
    ...stepLimits,
    host: z.string().min(1).max(253).default('127.0.0.1').describe('As the guest reaches it'),
    port: z.number().int().min(1).max(65_535).default(6379),
    socket: z
      .string()
      .regex(/^\/[^\0]*$/, 'an absolute path')
      .max(107)
      .optional()
      .describe('In place of host and port'),
    user: z.string().min(1).max(128).optional().describe('Default: the user `default`'),
    passwordFile: secretFile.describe('On the agent host'),
    pauseSeconds: z
      .number()
      .min(1)
      .max(130)
      .default(15)
      .describe(
        'Writes are paused so long at most; Redis itself goes on then. At least holdSecondsMax, else long holds are crash',
      ),
    client: z.string().min(1).max(4096).default('redis-cli').describe('Program in the guest'),
  })
  .describe('Redis 6.2 or later, or Valkey, with its append-only file');
