/** Inputs of the resources that make appliances: certificates, journal, agent, peering, what is captured. */
import { z } from 'zod';
import { agentConfigSchema } from '../../agent/src/config/schema.js';
import { sourceGroupSpecSchema } from '../../agent/src/config/schema-groups.js';
import { addressSchema, nameSchema } from '../../agent/src/service/scalars.js';
import { directorySchema } from '../appliance/layout.js';
import { hostSchema } from '../appliance/open-host.js';
import { siteSchema } from './inputs.js';

const pem = z
  .string()
  .max(1024 * 1024)
  .regex(/^-----BEGIN /, 'a PEM text');
const secretPem = pem.meta({ secret: true });
const certificateName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$/, '1 to 64 of A-Z a-z 0-9 space . _ -');
const days = z.number().int().min(1).max(36_500);
const forceDestroy = z.boolean().default(false);

export const certificateAuthoritySchema = z.strictObject({
  name: certificateName.default('Tidemark authority').describe('Cannot change'),
  days: days.default(3650).describe('How long it is valid. Cannot change'),
});

export const issuerSchema = z
  .strictObject({ certificate: pem, key: secretPem.describe('Stays in the state, encrypted, or with you') })
  .describe('The authority that signs');

export const agentEnrolmentSchema = z.strictObject({
  authority: issuerSchema,
  name: certificateName.describe('The agent or person: the CN of the certificate. Cannot change'),
  hosts: z
    .array(z.string().min(1).max(253))
    .max(64)
    .default([])
    .describe('Further names and addresses that are dialled'),
  days: days.default(825),
  renewDays: z
    .number()
    .int()
    .min(0)
    .max(36_500)
    .default(60)
    .describe('Days before its end at which an update renews it'),
});

export const targetJournalSchema = z.strictObject({
  host: hostSchema,
  directory: directorySchema.describe('Where journals and replicas lie. Cannot change'),
  device: z
    .string()
    .max(255)
    .regex(/^\/dev\/[A-Za-z0-9/_.:+-]+$/, 'a device below /dev; best /dev/disk/by-id/…')
    .optional()
    .describe(
      'Block device for it, mounted at the directory. Formatted only when nothing is on it, never otherwise. Cannot change',
    ),
  fileSystem: z.enum(['xfs', 'ext4']).default('xfs').describe('Of the device. Cannot change'),
  forceDestroy: forceDestroy.describe('Destroy deletes the journals too. Counts once an update applied it'),
});
export type TargetJournalInputs = z.infer<typeof targetJournalSchema>;

const port = z.number().int().min(1).max(65_535);
const settingsShape = agentConfigSchema.shape;

export const applianceSchema = z.strictObject({
  host: hostSchema,
  site: nameSchema.describe('Name of the site. Cannot change'),
  agent: nameSchema.describe('Name of the agent: the CN of its certificate. Cannot change'),
  directory: directorySchema.describe('Everything of the appliance lies below it. Cannot change'),
  dataDirectory: directorySchema
    .optional()
    .describe('Journals, replicas, scratch: dataDirectory of a TargetJournal. Default: DIRECTORY/data. Cannot change'),
  mountPoint: z
    .union([directorySchema, z.literal('')])
    .default('')
    .describe('File system without which the agent does not start: mountPoint of a TargetJournal'),
  certificate: pem.describe("The agent's, of an AgentEnrolment"),
  key: secretPem,
  authority: pem.describe('Authority that peers and operators are checked against'),
  operators: z.array(certificateName).max(256).default(['operator']).describe('Names that may do everything'),
  address: z
    .string()
    .min(1)
    .max(253)
    .optional()
    .describe('Name or IP address under which Pulumi and the peers reach it. Default: that of the host'),
  listenAddress: z.string().max(64).optional().describe('Default: 127.0.0.1 on this machine, 0.0.0.0 elsewhere'),
  apiPort: port.default(7440),
  streamPort: port.default(7441),
  settings: z
    .strictObject({
      hypervisors: settingsShape.hypervisors.optional(),
      buffers: settingsShape.buffers.optional(),
      guard: settingsShape.guard.optional(),
      throttle: settingsShape.throttle.optional(),
      log: settingsShape.log.optional(),
      drainSeconds: settingsShape.drainSeconds.optional(),
    })
    .default({})
    .describe("Further properties of the agent's configuration file"),
  bundle: z
    .string()
    .min(1)
    .max(4096)
    .optional()
    .describe('Executable that is copied, on the machine that runs Pulumi. Default: the one beside the provider'),
  readySeconds: z.number().min(5).max(3600).default(120).describe('Seconds in which a new agent must answer as ready'),
  forceDestroy: forceDestroy.describe(
    'Destroy deletes DIRECTORY/data too, and forgets a host that shows another key. Counts once an update applied it',
  ),
});
export type ApplianceInputs = z.infer<typeof applianceSchema>;

const peeredSchema = z
  .strictObject({
    connection: siteSchema,
    agent: nameSchema,
    stream: addressSchema.describe('Where its peer sends to'),
  })
  .describe('An agent that is to know the other');
export const sitePeeringSchema = z.strictObject({ first: peeredSchema, second: peeredSchema });
export type SitePeeringInputs = z.infer<typeof sitePeeringSchema>;

export const sourceGroupResourceSchema = z.strictObject({
  name: nameSchema.describe('Name of the group at its agents. Cannot change'),
  source: siteSchema.describe('The agent that captures'),
  capture: sourceGroupSpecSchema.describe('Which VMs and disks, and to which peers'),
  waitFor: z
    .enum(['declared', 'attached', 'synced'])
    .default('attached')
    .describe('When create is done. attached: connected, and every VM that runs is; synced: a checkpoint is durable'),
  waitSeconds: z.number().min(1).max(86_400).default(1800).describe('Seconds that it waits; what runs goes on'),
});
export type SourceGroupInputs = z.infer<typeof sourceGroupResourceSchema>;
