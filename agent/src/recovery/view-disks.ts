/** Disks of an open view as a hypervisor reaches them: exports on the agent's NBD socket. */
import type { ViewRegistry } from '../target/views.js';
import type { DiskSource } from './recovery-xml.js';

export interface ViewExports {
  readonly socketPath: string;
  exportName(view: string, disk: string): string;
}

/** Undefined for a disk that the view's checkpoint misses. Throws `view-unknown`. */
export function viewDisks(
  views: ViewRegistry,
  exports: ViewExports,
  view: string,
): (disk: string) => DiskSource | undefined {
  const { disks } = views.get(view);
  return (disk) => (disks.has(disk) ? exportOf(exports, view, disk) : undefined);
}

/** As {@link viewDisks} before the view is open: every disk but those that the checkpoint misses. */
export function exportOf(exports: ViewExports, view: string, disk: string): DiskSource {
  return { kind: 'nbd', socket: exports.socketPath, exportName: exports.exportName(view, disk) };
}
