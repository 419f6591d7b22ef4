/** Inputs of the resources and functions. What a group is made of are the agent's own schemas. */
import { z } from 'zod';
import { targetGroupSpecSchema } from '../../agent/src/service/group-spec.js';
import { drillChecksSchema, siteRecoverySchema } from '../../agent/src/service/recovery-spec.js';
import { nameSchema, secondsSchema } from '../../agent/src/service/scalars.js';
import { parseSelector } from '../../agent/src/service/selector.js';
import { transitions, type TransitionAction } from '../../agent/src/target/state-machine.js';

export const actions = Object.keys(transitions) as [TransitionAction, ...TransitionAction[]];

const urlSchema = z
  .string()
  .max(2048)
  .regex(/^https:\/\/[^/\s?#]+\/?$/, 'the API of an agent, e.g. https://fra-1.example:7440')
  .describe('API of the agent, e.g. https://fra-1.example:7440');

export const siteSchema = z
  .strictObject({
    api: urlSchema,
    serverName: z
      .string()
      .min(1)
      .max(253)
      .optional()
      .describe("Name in the agent's certificate. Default: the URL's host"),
  })
  .describe('How an agent is reached');
export type SiteInput = z.infer<typeof siteSchema>;

/** Part of an operation id, so that group and request together are one. */
export const requestSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$/, 'a request has 1 to 60 of A-Z a-z 0-9 . _ -')
  .describe('Your name for this one request, e.g. a ticket. Group and request are the operation id: run once, ever');

const selectorSchema = z
  .string()
  .min(1)
  .max(160)
  .refine((text) => isSelector(text), 'latest, latest-application, a checkpoint id, label:LABEL or an ISO time')
  .default('latest')
  .describe('latest, latest-application, a checkpoint id, label:LABEL or an ISO time. Resolved once, when it starts');

export const recoveryRequestSchema = z
  .strictObject({
    request: requestSchema,
    action: z.enum(actions).describe('Legal pairs of state and action are in the table of the agent'),
    to: nameSchema.optional().describe('Site to which it goes; refused when the target is another'),
    checkpoint: selectorSchema,
    maxDataLossSeconds: secondsSchema.optional().describe('Refused at execution when more would be lost'),
    sourceMayBeAlive: z
      .boolean()
      .default(false)
      .describe('A failover goes on although no one confirmed that the source is stopped'),
    shutdownSeconds: z
      .number()
      .min(1)
      .max(7200)
      .default(120)
      .describe('Of a move: until a guest that was asked to shut down must be off'),
    forceOff: z
      .boolean()
      .default(false)
      .describe('Of a move: a guest that is not off in time is ended; without it all are started again'),
    sourceStopped: z
      .boolean()
      .default(false)
      .describe('Of a move: a person has stopped what writes to the disks that are not of VMs'),
    discardSource: z
      .boolean()
      .default(false)
      .describe('Of a reverse: VMs that still run at the old source are ended; without it that is a split'),
  })
  .describe('A transition: asked for by its request, run once; removing or reverting it does nothing');
export type RecoveryRequest = z.infer<typeof recoveryRequestSchema>;

const timeoutSeconds = z.number().min(1).max(86_400);

export const homeSchema = z
  .strictObject({
    recovery: siteRecoverySchema
      .optional()
      .describe('Default: as at the target, with the networks the other way round and addresses kept'),
    encryptionKeyFile: z
      .string()
      .max(4096)
      .regex(/^\/[^\0]*$/, 'an absolute path')
      .optional()
      .describe('Key file on the host of that agent; needed when the policy encrypts'),
  })
  .describe('How VMs come back at the source, once the group is reversed');

export const protectionGroupSchema = z.strictObject({
  name: nameSchema.describe('Name of the group at its agents. Cannot change'),
  target: siteSchema.describe('The agent that holds the journal and recovers; the authority for the group'),
  source: siteSchema
    .optional()
    .describe('The agent of the site where the application is at home: it holds the journal after a reverse'),
  home: homeSchema.optional(),
  labels: z
    .record(z.string(), z.string().max(1024))
    .optional()
    .describe('For people and policy packs (class, databases, sourceFailureDomain, …); agents do not see them'),
  policy: targetGroupSpecSchema.describe('What is protected, how much history is kept, how VMs come back'),
  sourceSite: nameSchema
    .optional()
    .describe('Site where the application runs when it is not recovered. Default: the first stream'),
  sourceAddresses: z
    .record(z.string(), z.array(z.string().min(1).max(64)).max(64))
    .default({})
    .describe('Addresses of each VM at the source site, for the output addresses'),
  recovery: recoveryRequestSchema.optional(),
  waitFor: z
    .enum(['declared', 'attached', 'synced'])
    .default('declared')
    .describe('When create is done. attached: every source is connected; synced: a complete checkpoint is durable'),
  waitSeconds: timeoutSeconds.default(1800).describe('Seconds that create waits for waitFor; what runs goes on'),
  deletionGraceDays: z.number().min(0).max(365).default(7).describe('Days that history stays after destroy'),
  forceDestroy: z
    .boolean()
    .default(false)
    .describe('Destroy keeps no history and forgets a site that cannot be reached. Counts once an update applied it'),
});
/** Before its defaults. */
export type GroupPolicyInput = z.input<typeof targetGroupSpecSchema>;
export type ProtectionGroupInputs = z.infer<typeof protectionGroupSchema>;

export const recoveryDrillSchema = z.strictObject({
  target: siteSchema,
  source: siteSchema.optional().describe('Of the group: asked when a reverse has turned it round'),
  group: nameSchema,
  request: requestSchema,
  checkpoint: selectorSchema,
  vms: z.array(z.string().min(1).max(256)).min(1).max(256).optional().describe('Default: all that the policy recovers'),
  checks: drillChecksSchema.optional(),
  maxDurationMinutes: z
    .number()
    .min(0.01)
    .max(10_080)
    .default(120)
    .describe('The agent tears the drill down after so long, whatever it is at, with Pulumi gone'),
  keepRunning: z
    .boolean()
    .default(false)
    .describe('The VMs stay after their checks, until maxDurationMinutes are over or the resource is deleted'),
  waitSeconds: timeoutSeconds.default(7200).describe('Seconds that an update waits for the checks'),
});
export type RecoveryDrillInputs = z.infer<typeof recoveryDrillSchema>;

const pem = z
  .string()
  .min(1)
  .max(1024 * 1024);
const providerConfigShape = z.strictObject({
  certificate: pem.optional().describe('Client certificate with the role operator: PEM, or the path of a PEM file'),
  key: pem.optional().describe('Its key: PEM, or the path of a PEM file'),
  authority: pem.optional().describe('Authority that the agents are checked against: PEM, or the path of a PEM file'),
  timeoutSeconds: z
    .union([
      z.number(),
      z
        .string()
        .regex(/^\d+(\.\d+)?$/)
        .transform(Number),
    ])
    .pipe(z.number().min(1).max(600))
    .default(30)
    .describe('For connecting, and for each answer'),
});
/** Who makes appliances needs none of it; who asks agents needs all. */
export const providerConfigSchema = providerConfigShape.superRefine((config, context) => {
  const names = ['certificate', 'key', 'authority'] as const;
  if (names.every((name) => config[name] === undefined)) return;
  for (const name of names)
    if (config[name] === undefined)
      context.addIssue({ code: 'custom', path: [name], message: 'it is needed with the two others' });
});
export type ProviderConfig = z.infer<typeof providerConfigSchema>;

const groupArguments = { target: siteSchema, group: nameSchema };
export const statusArgumentsSchema = z.strictObject(groupArguments);
export const checkpointsArgumentsSchema = z.strictObject({
  ...groupArguments,
  limit: z.number().int().min(1).max(1000).default(100).describe('Newest first'),
});
export const forecastArgumentsSchema = z.strictObject({
  ...groupArguments,
  action: z.enum([...actions, 'drill']),
  checkpoint: selectorSchema,
});

function isSelector(text: string): boolean {
  try {
    parseSelector(text, 0);
    return true;
  } catch {
    return false;
  }
}
