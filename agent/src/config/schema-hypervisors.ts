/** Hypervisors of the configuration: where VMs are captured, and where they are recovered. */
import { z } from 'zod';
import { nameSchema } from '../service/scalars.js';

const absoluteSocket = z
  .string()
  .max(107)
  .regex(/^\/[^\0]*$/, 'an absolute path');

const socketDirectory = absoluteSocket
  .max(64)
  .optional()
  .describe(
    'Where QEMU makes the sockets that the agent reads disks through; QEMU may write to it. Default: listen.nbd.socketDirectory',
  );

export const libvirtSchema = z.strictObject({
  name: nameSchema,
  kind: z.literal('libvirt'),
  uri: z
    .string()
    .regex(/^[a-z0-9+]+:\/\/\S*$/i, 'a libvirt URI')
    .default('qemu:///system')
    .describe('What virsh connects to, e.g. qemu:///system, qemu+unix:///system?socket=/run/libvirt/libvirt-sock'),
  socketDirectory,
});

export const qmpSchema = z.strictObject({
  name: nameSchema,
  kind: z.literal('qmp'),
  monitors: z
    .array(z.strictObject({ vm: z.string().min(1).max(256), socket: absoluteSocket.describe('QMP monitor socket') }))
    .max(256),
  socketDirectory,
});

export const hypervisorSchema = z
  .discriminatedUnion('kind', [libvirtSchema, qmpSchema])
  .describe('libvirt: by virsh. qmp: QEMU by its monitor sockets, capture only');
export type HypervisorConfig = z.infer<typeof hypervisorSchema>;
