/** The agent's configuration file: every property, its bounds, its default. docs/config.md is made from it. */
import { z } from 'zod';
import { roleSchema, type Role } from '../service/agent-schemas.js';
import { targetGroupConfigSchema } from '../service/group-spec.js';
import { addressSchema, nameSchema } from '../service/scalars.js';
import { sizeSchema } from '../service/sizes.js';
import { sourceGroupSchema } from './schema-groups.js';
import { hypervisorSchema } from './schema-hypervisors.js';

const MiB = 1024 ** 2;
const path = z.string().min(1).max(4096);

const timeOfDay = z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'a time of day is HH:MM');

export const throttleWindowSchema = z
  .strictObject({
    days: z
      .array(z.enum(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']))
      .min(1)
      .default(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']),
    from: timeOfDay.default('00:00').describe("HH:MM, the host's time zone"),
    to: timeOfDay.default('00:00').describe('HH:MM; at or before `from`: on the next day'),
    bytesPerSecond: sizeSchema
      .refine((rate) => rate >= 1024, 'a rate is at least 1024 bytes a second')
      .describe('All links of the agent together'),
  })
  .describe('The first window that holds the moment counts; outside of all there is no limit');
export type ThrottleWindow = z.infer<typeof throttleWindowSchema>;

const listenSchema = z
  .strictObject({
    api: addressSchema.default('127.0.0.1:7440').describe('Control API, HTTPS'),
    stream: addressSchema.optional().describe('Replication streams from source agents; needed with target groups'),
    nbd: z
      .strictObject({
        socketDirectory: path.default('/run/tidemark').describe('Unix sockets of exports and views, mode 0600'),
        tcp: addressSchema.optional().describe('NBD over TCP, only with TLS and a certificate that this agent trusts'),
      })
      .prefault({}),
  })
  .prefault({});

const tlsSchema = z.strictObject({
  certificate: path.describe('PEM file; its CN is the agent name'),
  key: path.describe('PEM file, readable by the agent alone'),
  authority: path.describe('PEM file with the authorities that clients and peers are checked against'),
});

const buffersSchema = z
  .strictObject({
    bufferBytes: sizeSchema
      .refine((bytes) => bytes >= 8 * MiB, 'at least 8MiB')
      .default(256 * MiB)
      .describe('Memory for writes that are not durable at the target yet; all groups together'),
    spoolBytes: sizeSchema.default(0).describe('File space when memory is full; 0: none'),
    spoolDirectory: path.optional().describe('Default: DATADIRECTORY/spool'),
  })
  .prefault({});

const guardSchema = z
  .strictObject({
    letGoMs: z
      .number()
      .int()
      .min(200)
      .max(5000)
      .default(1000)
      .describe('Age of the oldest write without an answer at which the guests are let go and the agent is killed'),
  })
  .prefault({})
  .describe('The process beside an agent with mirror exports that watches it from outside');

const configShape = z.strictObject({
  site: nameSchema,
  agent: nameSchema.describe('Must equal the CN of the certificate'),
  dataDirectory: path.default('/var/lib/tidemark').describe('Journals, replicas, scratch, catalogue'),
  listen: listenSchema,
  tls: tlsSchema,
  access: z
    .array(
      z.strictObject({ name: z.string().min(1).max(64).describe('CN of the client certificate'), role: roleSchema }),
    )
    .max(1024)
    .default([])
    .describe('Who may use the API; peers have the role peer without being listed'),
  peers: z
    .array(
      z.strictObject({
        name: nameSchema,
        address: addressSchema.optional().describe('Stream address; needed where this agent dials'),
        api: addressSchema
          .optional()
          .describe("The peer's control API; needed to ask it for something: a move, a reverse"),
      }),
    )
    .max(256)
    .default([]),
  buffers: buffersSchema,
  guard: guardSchema,
  throttle: z.array(throttleWindowSchema).max(64).default([]),
  hypervisors: z.array(hypervisorSchema).max(64).default([]),
  sourceGroups: z.array(sourceGroupSchema).max(256).default([]),
  targetGroups: z.array(targetGroupConfigSchema).max(256).default([]),
  log: z.strictObject({ level: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info') }).prefault({}),
  drainSeconds: z
    .number()
    .min(0)
    .max(3600)
    .default(20)
    .describe('On SIGTERM: seconds to send and sync what is buffered, then the agent stops all the same'),
});

type Shape = z.infer<typeof configShape>;

/** Each a rule between properties, with the path of the property to change. */
export const agentConfigSchema = configShape.superRefine((config, context) => {
  const complain = (at: (string | number)[], message: string): void =>
    context.addIssue({ code: 'custom', path: at, message });
  const peers = new Map(config.peers.map((peer) => [peer.name, peer]));
  unique(config.peers, 'peers', (peer) => peer.name, complain);
  unique(config.hypervisors, 'hypervisors', (hypervisor) => hypervisor.name, complain);
  unique(config.access, 'access', (entry) => entry.name, complain);

  const groups = new Set<string>();
  for (const list of ['sourceGroups', 'targetGroups'] as const)
    for (const [index, group] of config[list].entries()) {
      if (groups.has(group.name)) complain([list, index, 'name'], `another group is named ${group.name}`);
      groups.add(group.name);
    }
  for (const [index, group] of config.sourceGroups.entries())
    for (const [place, target] of group.targets.entries()) {
      const peer = peers.get(target.peer);
      if (peer === undefined)
        complain(['sourceGroups', index, 'targets', place, 'peer'], `${target.peer} is not in peers`);
      else if ((target.address ?? peer.address) === undefined)
        complain(
          ['sourceGroups', index, 'targets', place, 'address'],
          `no address here nor for the peer ${target.peer}`,
        );
    }
  for (const [index, group] of config.sourceGroups.entries())
    for (const [place, { hypervisor }] of group.vms.entries())
      if (!config.hypervisors.some(({ name }) => name === hypervisor))
        complain(['sourceGroups', index, 'vms', place, 'hypervisor'], `${hypervisor} is not in hypervisors`);
  const libvirts = config.hypervisors.filter(({ kind }) => kind === 'libvirt').map(({ name }) => name);
  for (const [index, { recovery }] of config.targetGroups.entries())
    if (recovery !== undefined && !libvirts.includes(recovery.hypervisor))
      complain(
        ['targetGroups', index, 'recovery', 'hypervisor'],
        `${recovery.hypervisor} is not a libvirt of hypervisors`,
      );
  for (const [index, group] of config.targetGroups.entries())
    for (const [place, stream] of group.streams.entries())
      if (!peers.has(stream)) complain(['targetGroups', index, 'streams', place], `${stream} is not in peers`);
  if (config.targetGroups.length > 0 && config.listen.stream === undefined)
    complain(['listen', 'stream'], 'target groups need it');
  exportsUnique(config, complain);
});
export type AgentConfig = z.infer<typeof agentConfigSchema>;
export type AgentConfigInput = z.input<typeof agentConfigSchema>;

type Complain = (at: (string | number)[], message: string) => void;

function unique<Entry>(
  entries: readonly Entry[],
  property: string,
  key: (entry: Entry) => string,
  complain: Complain,
): void {
  const seen = new Set<string>();
  for (const [index, entry] of entries.entries()) {
    if (seen.has(key(entry))) complain([property, index, 'name'], `${key(entry)} is listed twice`);
    seen.add(key(entry));
  }
}

function exportsUnique(config: Shape, complain: Complain): void {
  const seen = new Set<string>();
  for (const [index, group] of config.sourceGroups.entries())
    for (const [place, disk] of group.disks.entries()) {
      const name = disk.exportName ?? `${group.name}/${disk.name}`;
      if (seen.has(name))
        complain(['sourceGroups', index, 'disks', place, 'exportName'], `another disk is exported as ${name}`);
      seen.add(name);
    }
}

/** Role of a certificate name; undefined: no access. `access` goes before `peers`. */
export function roleOf(config: Pick<AgentConfig, 'access' | 'peers'>, name: string): Role | undefined {
  return (
    config.access.find((entry) => entry.name === name)?.role ??
    (config.peers.some((peer) => peer.name === name) ? 'peer' : undefined)
  );
}
