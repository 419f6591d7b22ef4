/** Settings of the hooks `mariadb` and `mysql`, which differ in their kind and their client. */
import { z } from 'zod';
import { secretFile, stepLimits } from './settings-common.js';

const shared = {
  ...stepLimits,
  socket: z
    .string()
    .regex(/^\/[^\0]*$/, 'an absolute path')
    .max(107)
    .default('/run/mysqld/mysqld.sock')
    .describe('Of the server, in the guest'),
  user: z.string().min(1).max(80).default('root'),
  passwordFile: secretFile.describe(
    'On the agent host. Left out: the socket itself proves who asks (unix_socket, auth_socket)',
  ),
  redoBytesMax: z
    .number()
    .int()
    .min(0)
    .default(512 * 1024)
    .describe('Before the hold InnoDB flushes dirty pages until a start would replay no more than this'),
  flushSecondsMax: z
    .number()
    .min(0)
    .max(600)
    .default(20)
    .describe('Seconds that this may take; then the hold comes all the same'),
  lockWaitSeconds: z
    .number()
    .int()
    .min(1)
    .max(30)
    .default(1)
    .describe('A lock that is not granted by then is given up, so that nobody waits behind it'),
};
const client = z.string().min(1).max(4096).describe('Program in the guest');

export const mariadbSettingsSchema = z
  .strictObject({ kind: z.literal('mariadb'), ...shared, client: client.default('mariadb') })
  .describe('MariaDB 10.6 or later');

export const mysqlSettingsSchema = z
  .strictObject({ kind: z.literal('mysql'), ...shared, client: client.default('mysql') })
  .describe('MySQL 8.0.30 or later');

export type InnoDbSettings = z.infer<typeof mariadbSettingsSchema> | z.infer<typeof mysqlSettingsSchema>;
