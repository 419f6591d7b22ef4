/** How the VMs of a target group come back: hypervisor, boot order, networks, addresses, readiness. */
import { isIP } from 'node:net';
import { z } from 'zod';
import { hookSettingsSchema } from '../hooks/settings.js';
import { nameSchema } from './scalars.js';

const timeoutSeconds = z.number().min(1).max(7200).default(300).describe('Seconds until it counts as failed');
const ip = z.string().refine((text) => isIP(text) !== 0, 'an IPv4 or IPv6 address');
const cidr = z
  .string()
  .refine((text) => isCidr(text), 'an address with its prefix length, e.g. 10.0.0.5/24 or 2001:db8::5/64');

export const readinessSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('guest-agent'), timeoutSeconds }).describe('The guest agent answers'),
  z
    .strictObject({
      kind: z.literal('tcp'),
      host: z.string().min(1).max(253).default('127.0.0.1'),
      port: z.number().int().min(1).max(65_535),
      timeoutSeconds,
    })
    .describe('A TCP port accepts. Asked from inside the guest when it is 127.0.0.1 or in a drill'),
  z
    .strictObject({
      kind: z.literal('http'),
      url: z.url({ protocol: /^https?$/ }).max(2048),
      timeoutSeconds,
    })
    .describe('GET answers with 200 to 399. Asked from inside the guest when it names 127.0.0.1 or in a drill'),
  z
    .strictObject({
      kind: z.literal('command'),
      command: z.array(z.string().max(4096)).min(1).max(64),
      timeoutSeconds,
    })
    .describe('A program in the guest, run by the guest agent, ends with 0'),
]);
export type Readiness = z.infer<typeof readinessSchema>;

/** What a drill checks besides the readiness of the policy. */
export const drillChecksSchema = z
  .array(
    z.strictObject({
      vm: z.string().min(1).max(256).describe('Name of the VM at the source'),
      check: readinessSchema,
    }),
  )
  .max(256)
  .describe('Besides the readiness of the policy');
export type DrillChecks = z.infer<typeof drillChecksSchema>;

export const networkNameSchema = z
  .string()
  .regex(/^(bridge:)?[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'a libvirt network, or bridge:NAME')
  .describe('A libvirt network, or bridge:NAME for a bridge of the host');

const networkMapSchema = z.strictObject({
  from: networkNameSchema.describe("Network of the NIC in the VM's definition"),
  live: networkNameSchema.describe('Network after a failover'),
  test: networkNameSchema.optional().describe('Network in a drill. Default: testNetwork'),
});

const staticAddressSchema = z.strictObject({
  addresses: z.array(cidr).min(1).max(8).describe('IPv4 and IPv6, with prefix length'),
  gateways: z.array(ip).max(2).default([]),
  dns: z.array(ip).max(4).default([]),
});
export const addressingSchema = z
  .union([z.literal('dhcp'), z.literal('keep'), staticAddressSchema])
  .describe('keep: as the guest has it; dhcp: asks again; or static');
export type Addressing = z.infer<typeof addressingSchema>;

export const recoveryVmSchema = z.strictObject({
  vm: z.string().min(1).max(256).describe('Name of the VM at the source'),
  wave: z.number().int().min(1).max(99).default(1).describe('A wave boots when the one before is ready'),
  delaySeconds: z.number().min(0).max(3600).default(0).describe('Wait before this VM is started, within its wave'),
  readiness: z.array(readinessSchema).max(16).default([]).describe('All must hold before the next wave boots'),
  hooks: z
    .array(hookSettingsSchema)
    .max(8)
    .default([])
    .describe(
      'The hooks of its application checkpoints: what they must do in the recovered VM is done before its readiness, by its guest agent, also in drills',
    ),
  networks: z
    .array(networkMapSchema)
    .max(64)
    .default([])
    .refine(
      (maps) => new Set(maps.map(({ from }) => from)).size === maps.length,
      'a network of the source is mapped once',
    )
    .describe('A network that is not listed keeps its name'),
  mac: z
    .enum(['keep', 'new'])
    .default('keep')
    .describe('MAC addresses after a failover; in an isolated test network they are always kept'),
  addresses: z
    .array(
      z.strictObject({
        nic: z.number().int().min(0).max(63).describe("The VM's NIC, counted from 0"),
        name: z
          .string()
          .regex(/^[A-Za-z][A-Za-z0-9._-]{0,14}$/, 'a name of a NIC, e.g. ens3')
          .optional()
          .describe(
            'Its name in the guest, for cloud-init: ifupdown, networkd and sysconfig need it, netplan does not',
          ),
        live: addressingSchema.default('keep'),
        test: addressingSchema.default('keep'),
      }),
    )
    .max(64)
    .default([])
    .describe('Addresses after a recovery'),
  addressesBy: z
    .enum(['guest-agent', 'cloud-init'])
    .default('guest-agent')
    .describe(
      'guest-agent: set after the boot, until the guest changes them. cloud-init: by the NoCloud CD-ROM (label cidata) that the VM has, made anew for its recovery; every NIC needs an address',
    ),
});
export type RecoveryVm = z.infer<typeof recoveryVmSchema>;

const recoveryShape = z.strictObject({
  hypervisor: nameSchema.describe("One of this agent's hypervisors"),
  vms: z.array(recoveryVmSchema).min(1).max(256),
  testNetwork: z
    .union([z.literal('isolated'), networkNameSchema])
    .default('isolated')
    .describe('Of drills. isolated: one of its own for each drill, which leads nowhere'),
  uncommittedHours: z
    .number()
    .min(0.001)
    .max(8760)
    .default(24)
    .describe('Hours after a failover until `afterwards` is done'),
  afterwards: z.enum(['remind', 'commit', 'rollback']).default('remind'),
});

/** Checks that hold between properties. */
const checkRecovery = ({ vms }: { readonly vms: readonly RecoveryVm[] }, context: z.RefinementCtx): void => {
  for (const [index, { vm }] of vms.entries())
    if (vms.findIndex((other) => other.vm === vm) < index)
      context.addIssue({ code: 'custom', path: ['vms', index, 'vm'], message: `${vm} is listed twice` });
};

export const recoverySpecSchema = recoveryShape.superRefine(checkRecovery);
export type RecoverySpec = z.infer<typeof recoverySpecSchema>;

/** Of a site whose hypervisor its own agent knows. */
export const siteRecoverySchema = recoveryShape.omit({ hypervisor: true }).superRefine(checkRecovery);
export type SiteRecovery = z.infer<typeof siteRecoverySchema>;

function isCidr(text: string): boolean {
  const [address = '', prefix = '', ...rest] = text.split('/');
  const family = isIP(address);
  return rest.length === 0 && family !== 0 && /^\d{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128);
}
