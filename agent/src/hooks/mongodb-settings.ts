/** Settings of the hook `mongodb`. */
import { z } from 'zod';
import { secretFile, stepLimits } from './settings-common.js';

export const mongodbSettingsSchema = z
  .strictObject({
    kind: z.literal('mongodb'),
    ...stepLimits,
    host: z.string().min(1).max(253).default('127.0.0.1').describe('As the guest reaches it'),
    port: z.number().int().min(1).max(65_535).default(27_017),
    user: z
      .string()
      .min(1)
      .max(128)
      .optional()
      .describe('With the roles hostManager and clusterMonitor; left out: without authentication'),
    passwordFile: secretFile.describe('On the agent host'),
    authenticationDatabase: z.string().min(1).max(63).default('admin'),
    tlsCaFile: z
      .string()
      .max(4096)
      .regex(/^\/[^\0]*$/, 'an absolute path')
      .optional()
      .describe('In the guest; given: the server is spoken to over TLS and must have a certificate of this authority'),
    lockPrimary: z
      .boolean()
      .default(false)
      .describe('Also the primary of a replica set with other members is locked: no write of the whole set goes on'),
    lockWaitSeconds: z
      .number()
      .min(0.1)
      .max(30)
      .default(1)
      .describe('A lock that is not granted by then is given up by the server, so that nobody waits behind it'),
    releaseAfterSeconds: z
      .number()
      .int()
      .min(2)
      .max(140)
      .default(20)
      .describe('The guest unlocks by itself when the agent has not by then. At least holdSecondsMax + 5'),
    client: z.string().min(1).max(4096).default('mongosh').describe('Program in the guest'),
  })
  .refine(({ user, passwordFile }) => (user === undefined) === (passwordFile === undefined), {
    path: ['passwordFile'],
    message: 'give user and passwordFile, or neither',
  })
  .describe('MongoDB 7.0.2 or later with WiredTiger: a standalone server or a member of a replica set');
