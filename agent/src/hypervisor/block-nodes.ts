/** The block devices of a QEMU process, by QMP. */
import { z } from 'zod';
import { query, type Monitor } from './monitor.js';

const name = z.string().max(4096);
const bitmapSchema = z.object({
  name: name.optional(),
  recording: z.boolean(),
  busy: z.boolean(),
  persistent: z.boolean(),
  inconsistent: z.boolean().default(false),
  granularity: z.number(),
  count: z.number(),
});
export type DirtyBitmap = z.infer<typeof bitmapSchema>;

const insertedSchema = z.object({
  'node-name': name.default(''),
  drv: name,
  ro: z.boolean(),
  encrypted: z.boolean().default(false),
  file: name.default(''),
  image: z.object({ 'virtual-size': z.number().nonnegative(), filename: name.default('') }),
  'dirty-bitmaps': z.array(bitmapSchema).default([]),
});
const deviceSchema = z.object({
  device: name,
  qdev: name.optional(),
  removable: z.boolean(),
  inserted: insertedSchema.optional(),
});
export type BlockDeviceInfo = z.infer<typeof deviceSchema>;
const nodeSchema = insertedSchema;
export type BlockNodeInfo = z.infer<typeof nodeSchema>;

/** Devices of the guest with what is in them. */
export function blockDevices(monitor: Monitor): Promise<BlockDeviceInfo[]> {
  return query(monitor, z.array(deviceSchema), 'query-block');
}

/** All nodes of the graph that have a name. */
export function namedNodes(monitor: Monitor): Promise<BlockNodeInfo[]> {
  return query(monitor, z.array(nodeSchema), 'query-named-block-nodes', { flat: true });
}

/** The name that a person knows a device by: its own id, or that of its drive. */
export function targetOf({ device, qdev }: BlockDeviceInfo): string {
  if (device !== '') return device;
  const path = /^\/machine\/(?:peripheral|unattached)\/([^/]+)/.exec(qdev ?? '');
  return path?.[1] ?? qdev ?? '';
}

/** True when the device is the one with that alias of libvirt. */
export function hasAlias({ qdev, device }: BlockDeviceInfo, alias: string): boolean {
  return qdev === alias || qdev?.startsWith(`/machine/peripheral/${alias}/`) === true || device === `drive-${alias}`;
}
