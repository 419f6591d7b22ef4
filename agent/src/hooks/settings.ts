/** What a person declares of the hooks of a source group: which run where, when, and how long a hold may last. */
import { z } from 'zod';
import { commandSettingsSchema } from './command-settings.js';
import { cronProblem } from './cron.js';
import { mariadbSettingsSchema, mysqlSettingsSchema } from './innodb-settings.js';
import { mongodbSettingsSchema } from './mongodb-settings.js';
import { oracleSettingsSchema } from './oracle-settings.js';
import { redisSettingsSchema } from './redis-settings.js';
import { sapHanaSettingsSchema } from './sap-hana-settings.js';
import { secretFile, stepLimits } from './settings-common.js';
import {
  exchangeSettingsSchema,
  sharepointSettingsSchema,
  sqlserverSettingsSchema,
  windowsProblem,
  windowsSettingsSchema,
} from './vss-settings.js';

export const fsfreezeSettingsSchema = z
  .strictObject({
    kind: z.literal('fsfreeze'),
    ...stepLimits,
    dirtyBytesMax: z
      .number()
      .int()
      .min(0)
      .default(16 * 1024 * 1024)
      .describe(
        'Before the freeze the guest is synced until no more bytes than this are dirty, or prepareSeconds are over',
      ),
  })
  .describe('All file systems of the guest, by its guest agent; on Windows this drives VSS');

export const postgresqlSettingsSchema = z
  .strictObject({
    kind: z.literal('postgresql'),
    ...stepLimits,
    host: z
      .string()
      .min(1)
      .max(253)
      .default('/var/run/postgresql')
      .describe('Directory of its socket in the guest, or a host name'),
    port: z.number().int().min(1).max(65_535).default(5432),
    user: z
      .string()
      .min(1)
      .max(63)
      .default('postgres')
      .describe('Superuser, or a member of pg_checkpoint and pg_read_all_settings'),
    database: z.string().min(1).max(63).default('postgres'),
    osUser: z
      .string()
      .max(32)
      .default('postgres')
      .describe("User of the guest that psql runs as; empty: the transport's own"),
    psql: z.string().min(1).max(4096).default('psql').describe('Program in the guest'),
    redoBytesMax: z
      .number()
      .int()
      .min(0)
      .default(512 * 1024)
      .describe(
        'Before the hold CHECKPOINT is repeated, at most 4 times, until a start would replay no more than this',
      ),
  })
  .describe('PostgreSQL 12 or later');

export const hookSettingsSchema = z.discriminatedUnion('kind', [
  fsfreezeSettingsSchema,
  commandSettingsSchema,
  postgresqlSettingsSchema,
  mariadbSettingsSchema,
  mysqlSettingsSchema,
  redisSettingsSchema,
  mongodbSettingsSchema,
  oracleSettingsSchema,
  sapHanaSettingsSchema,
  windowsSettingsSchema,
  sqlserverSettingsSchema,
  exchangeSettingsSchema,
  sharepointSettingsSchema,
]);
export type HookSettings = z.infer<typeof hookSettingsSchema>;
export type HookKind = HookSettings['kind'];
export type HookSettingsOf<Kind extends HookKind> = Extract<HookSettings, { kind: Kind }>;

export const sshSettingsSchema = z
  .strictObject({
    host: z.string().min(1).max(253),
    port: z.number().int().min(1).max(65_535).default(22),
    user: z.string().min(1).max(64).default('root'),
    hostKey: z
      .string()
      .max(4096)
      .regex(/^\S+ [A-Za-z0-9+/=]+$/, 'TYPE BASE64, as in known_hosts without its host names')
      .describe('The only key that is trusted: TYPE BASE64'),
    privateKeyFile: secretFile.describe('On the agent host'),
    passwordFile: secretFile.describe('On the agent host'),
    sudo: z.boolean().default(false).describe('Programs run by sudo -n'),
  })
  .refine(({ privateKeyFile, passwordFile }) => (privateKeyFile ?? passwordFile) !== undefined, {
    path: ['privateKeyFile'],
    message: 'give privateKeyFile or passwordFile',
  });
export type SshSettings = z.infer<typeof sshSettingsSchema>;

export const hookedVmSchema = z
  .strictObject({
    vm: z.string().min(1).max(256).describe('Name or UUID, as in vms'),
    tier: z
      .number()
      .int()
      .min(1)
      .max(99)
      .default(1)
      .describe('Held in this order, all of a tier at once: clients first, databases last. Released in reverse'),
    hooks: z
      .array(hookSettingsSchema)
      .min(1)
      .max(8)
      .describe('Held in this order, fsfreeze always last. Released in reverse'),
    ssh: sshSettingsSchema
      .optional()
      .describe(
        'Programs run over SSH in place of guest-exec, where the guest agent forbids that. fsfreeze is the guest agent’s in any case',
      ),
  })
  .superRefine(({ hooks, ssh }, context) => {
    const problem = windowsProblem(hooks, ssh !== undefined);
    if (problem !== undefined) context.addIssue({ code: 'custom', path: ['hooks'], message: problem });
  });
export type HookedVm = z.infer<typeof hookedVmSchema>;

export const hookScheduleSchema = z
  .strictObject({
    cron: z.string().min(1).max(128).describe('Five fields: minute hour day month weekday'),
    timeZone: z.string().max(64).refine(isTimeZone, 'a time zone, e.g. Europe/Berlin').default('UTC'),
    jitterSeconds: z
      .number()
      .min(0)
      .max(3600)
      .default(0)
      .describe('Each is made up to so much later, at random, so that groups do not all hold at once'),
    perHourMax: z
      .number()
      .int()
      .min(1)
      .max(3600)
      .default(60)
      .describe('More than this in an hour are left out, and counted as missed'),
  })
  .superRefine(({ cron, timeZone }, context) => {
    const problem = cronProblem(cron, timeZone);
    if (problem !== undefined) context.addIssue({ code: 'custom', path: ['cron'], message: problem });
  })
  .describe(
    'When application checkpoints are made by themselves. One that is due while another is being made is left out',
  );
export type HookSchedule = z.infer<typeof hookScheduleSchema>;

/** Of a source group. */
export const hooksSchema = z
  .strictObject({
    vms: z
      .array(hookedVmSchema)
      .min(1)
      .max(256)
      .refine((vms) => new Set(vms.map(({ vm }) => vm)).size === vms.length, 'a VM is listed once'),
    holdSecondsMax: z
      .number()
      .min(1)
      .max(120)
      .default(10)
      .describe(
        'Hard limit from the first quiesce to the mark; then all is released and the point is crash. When this agent dies meanwhile, each guest releases itself at most 5 seconds after it',
      ),
    schedule: hookScheduleSchema.optional(),
  })
  .describe('How application checkpoints are made. VMs without hooks are in them as in a crash checkpoint');
export type Hooks = z.infer<typeof hooksSchema>;

function isTimeZone(name: string): boolean {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone !== '';
  } catch {
    return false;
  }
}
