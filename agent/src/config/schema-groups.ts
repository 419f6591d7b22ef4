/** Source groups of the configuration: which disks are captured, and where they go. */
import { z } from 'zod';
import { fencingPolicySchema } from '../fencing/fence-record.js';
import { hooksSchema } from '../hooks/settings.js';
import { diskSizeSchema, intervalSchema } from '../service/group-spec.js';
import { addressSchema, nameSchema } from '../service/scalars.js';

const nbdUri = z.string().regex(/^nbds?(\+unix)?:\/\/\S+$/, 'an NBD URI, e.g. nbd+unix:///export?socket=/run/x.sock');
const absoluteFile = z
  .string()
  .max(4096)
  .regex(/^\/[^\0]*$/, 'an absolute path');
const exportName = z
  .string()
  .regex(/^[\x21-\x7e]{1,255}$/, 'an export name has 1 to 255 printable characters without spaces')
  .optional()
  .describe('Name of the NBD export. Default: GROUP/DISK');

const mirrorDisk = z.strictObject({
  kind: z.literal('mirror'),
  name: nameSchema,
  sizeBytes: diskSizeSchema,
  source: z
    .union([nbdUri, absoluteFile])
    .optional()
    .describe(
      'NBD URI or raw file where the agent reads the disk for a sync; without it a sync is refused (sync-unavailable)',
    ),
  exportName,
});

const inPathDisk = z.strictObject({
  kind: z.literal('in-path'),
  name: nameSchema,
  file: absoluteFile.optional().describe('Raw file or block device that is served'),
  upstream: nbdUri.optional().describe('NBD export that is served'),
  sizeBytes: diskSizeSchema.optional().describe('Default: the size of the file or of the upstream export'),
  exportName,
});

export const sourceDiskSchema = z
  .discriminatedUnion('kind', [mirrorDisk, inPathDisk])
  .superRefine((disk, context) => {
    if (disk.kind !== 'in-path') return;
    if (disk.file === undefined && disk.upstream === undefined)
      context.addIssue({ code: 'custom', path: ['file'], message: 'an in-path disk needs file or upstream' });
    if (disk.file !== undefined && disk.upstream !== undefined)
      context.addIssue({ code: 'custom', path: ['upstream'], message: 'give file or upstream, not both' });
  })
  .describe('mirror: a hypervisor mirrors into the export. in-path: the disk is served through the agent');
export type SourceDiskConfig = z.infer<typeof sourceDiskSchema>;

export const sourceVmSchema = z.strictObject({
  vm: z.string().min(1).max(256).describe('Name or UUID'),
  hypervisor: nameSchema.describe('Of hypervisors'),
  disks: z
    .array(z.string().min(1).max(64))
    .min(1)
    .max(64)
    .optional()
    .describe('Targets (vda …). Default: all that can be captured'),
  migrates: z
    .boolean()
    .default(false)
    .describe(
      'It may run on another host, whose agent lists it in the same group; each agent captures it while it is there. Needs libvirt',
    ),
});
export type SourceVmConfig = z.infer<typeof sourceVmSchema>;

const sourceGroupShape = z.strictObject({
  targets: z
    .array(
      z.strictObject({
        peer: nameSchema,
        address: addressSchema.optional().describe('Default: the address of that peer'),
      }),
    )
    .min(1)
    .max(8)
    .describe('Target agents; each gets the whole group'),
  checkpointIntervalSeconds: intervalSchema,
  disks: z.array(sourceDiskSchema).max(256).default([]).describe('Disks besides those of vms'),
  vms: z
    .array(sourceVmSchema)
    .max(256)
    .default([])
    .describe('VMs whose disks the agent attaches by itself; a disk of the group is named VM-TARGET, e.g. db-vda'),
  hooks: hooksSchema.optional(),
  fencing: fencingPolicySchema
    .default('isolate')
    .describe(
      'What happens to the VMs here when a target was failed over. isolate: off their networks (QEMU by monitor: paused). stop: ended. leave: nothing',
    ),
});

/** Checks that hold between properties; issues carry the path of the property to change. */
function checkGroup(group: z.infer<typeof sourceGroupShape>, context: z.RefinementCtx): void {
  if (group.disks.length + group.vms.length === 0)
    context.addIssue({ code: 'custom', path: ['vms'], message: 'a group needs vms or disks' });
  for (const [index, { vm }] of group.vms.entries())
    if (group.vms.findIndex((other) => other.vm === vm) < index)
      context.addIssue({ code: 'custom', path: ['vms', index, 'vm'], message: `${vm} is listed twice` });
  for (const [index, { vm }] of (group.hooks?.vms ?? []).entries())
    if (!group.vms.some((each) => each.vm === vm))
      context.addIssue({ code: 'custom', path: ['hooks', 'vms', index, 'vm'], message: `${vm} is not one of vms` });
  for (const [index, disk] of group.disks.entries())
    if (group.disks.findIndex((other) => other.name === disk.name) < index)
      context.addIssue({
        code: 'custom',
        path: ['disks', index, 'name'],
        message: `another disk is named ${disk.name}`,
      });
  for (const [index, target] of group.targets.entries())
    if (group.targets.findIndex((other) => other.peer === target.peer) < index)
      context.addIssue({
        code: 'custom',
        path: ['targets', index, 'peer'],
        message: `${target.peer} is listed twice`,
      });
}

/** By the API: its name is in the path. */
export const sourceGroupSpecSchema = sourceGroupShape.superRefine(checkGroup);
export type SourceGroupSpec = z.infer<typeof sourceGroupSpecSchema>;

export const sourceGroupSchema = z
  .strictObject({ name: nameSchema, ...sourceGroupShape.shape })
  .superRefine(checkGroup);
export type SourceGroupConfig = z.infer<typeof sourceGroupSchema>;
