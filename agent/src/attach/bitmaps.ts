/**
 * Dirty bitmaps on the source node, kept by QEMU whatever becomes of the agent; they end with the QEMU process.
 *
 * A bitmap records every write from its creation to its removal. At most two of a disk are kept: `base`, and after a
 * rotation a younger one. The base is dropped when each target was seen to hold all that was written before the younger
 * began; so at any moment the base marks everything that a target may lack. To be read it is copied: a third, disabled
 * bitmap takes over its content in the same transaction in which a new younger one begins.
 */
import { namedNodes, type DirtyBitmap } from '../hypervisor/block-nodes.js';
import type { Monitor } from '../hypervisor/monitor.js';

/** One bit of the link's own map: finer would only cost memory. */
const granularity = 65_536;

/** Ours on the node, by name; sound ones only. */
export async function listBitmaps(monitor: Monitor, nodeName: string, prefix: string): Promise<DirtyBitmap[]> {
  const node = (await namedNodes(monitor)).find((each) => each['node-name'] === nodeName);
  return (node?.['dirty-bitmaps'] ?? []).filter(({ name }) => name?.startsWith(`${prefix}-`) === true);
}

/** Records without a gap since it was made. */
export function isSound({ recording, inconsistent, persistent, granularity: size }: DirtyBitmap): boolean {
  return recording && !inconsistent && !persistent && size === granularity;
}

/** All or nothing, at one moment: QEMU lets requests under way end before. */
export function transaction(monitor: Monitor, actions: readonly BitmapAction[]): Promise<unknown> {
  return monitor.execute('transaction', { actions });
}

export interface BitmapAction {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export function add(node: string, name: string, disabled = false): BitmapAction {
  return { type: 'block-dirty-bitmap-add', data: { node, name, granularity, persistent: false, disabled } };
}

export function remove(node: string, name: string): BitmapAction {
  return { type: 'block-dirty-bitmap-remove', data: { node, name } };
}

export function merge(node: string, target: string, from: string): BitmapAction {
  return { type: 'block-dirty-bitmap-merge', data: { node, target, bitmaps: [from] } };
}
