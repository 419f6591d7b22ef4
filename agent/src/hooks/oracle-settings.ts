/** Settings of the hook `oracle`. */
import { z } from 'zod';
import { secretFile, stepLimits } from './settings-common.js';

export const oracleSettingsSchema = z
  .strictObject({
    kind: z.literal('oracle'),
    ...stepLimits,
    mode: z
      .enum(['checkpoint', 'hot-backup'])
      .default('checkpoint')
      .describe(
        'checkpoint relies on the order of writes over all files; hot-backup also puts the database in backup mode, for who recovers with RMAN and archived logs',
      ),
    sid: z
      .string()
      .regex(/^[A-Za-z][A-Za-z0-9_$#]{0,29}$/, 'an ORACLE_SID')
      .describe('ORACLE_SID of the instance in the guest'),
    home: z
      .string()
      .max(4096)
      .regex(/^\/[^\0]*$/, 'an absolute path')
      .describe('ORACLE_HOME in the guest'),
    osUser: z
      .string()
      .max(32)
      .default('oracle')
      .describe("User of the guest that sqlplus runs as; empty: the transport's own"),
    user: z
      .string()
      .regex(/^[A-Za-z][A-Za-z0-9_$#]{0,127}$/, 'a user of the database')
      .optional()
      .describe('With SYSDBA; left out: the group of the osUser proves it (CONNECT / AS SYSDBA)'),
    passwordFile: secretFile.describe('On the agent host'),
  })
  .refine(({ user, passwordFile }) => (user === undefined) === (passwordFile === undefined), {
    path: ['passwordFile'],
    message: 'give user and passwordFile, or neither',
  })
  .describe('Oracle Database 12c or later, one instance');
