/** How the runtime serves NBD: one server, exports by name. */
import type { ExportBackend } from '../nbd/backend.js';

export interface ExportHost {
  /** `storage-exists` when the name is taken. */
  add(name: string, backend: ExportBackend, description: string): void;
  /** Drops its clients and resolves when the last request has ended; an unknown name is not an error. */
  remove(name: string): Promise<void>;
  clientCount(name: string): number;
  /** nbd+unix URI on this host. */
  uri(name: string): string;
  /** nbds URI, when the agent listens on TCP. */
  tlsUri(name: string): string | null;
}

/** Export name of one disk of a view. */
export function viewExportName(group: string, view: string, disk: string): string {
  return `${group}/${view}/${disk}`;
}
