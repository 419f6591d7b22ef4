/** The agent's one NBD server as the runtime uses it: exports by name on one unix socket, and on TCP with TLS. */
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { ExportBackend } from '../nbd/backend.js';
import type { NbdServer } from '../nbd/server.js';
import type { ExportHost } from './exports.js';

/** For clients that are connected and idle; requests under way are answered whatever it takes. */
const graceMs = 1000;

export class NbdExports implements ExportHost {
  readonly socketPath: string;

  /** `tcp`: host:port that the server listens on with TLS. `onGuarded`: an export is added that needs the guard. */
  constructor(
    private readonly server: NbdServer,
    socketDirectory: string,
    private readonly tcp: string | undefined,
    private readonly onGuarded: () => void,
  ) {
    this.socketPath = join(socketDirectory, 'nbd.sock');
  }

  add(name: string, backend: ExportBackend, description: string): void {
    this.server.addExport(name, backend, { description });
    if (backend.guardGroup !== undefined) this.onGuarded();
  }

  remove(name: string): Promise<void> {
    return this.server.removeExport(name, { graceMs });
  }

  clientCount(name: string): number {
    return this.server.exportStatus(name)?.connections ?? 0;
  }

  uri(name: string): string {
    return `nbd+unix:///${uriPath(name)}?socket=${encodeURIComponent(this.socketPath)}`;
  }

  tlsUri(name: string): string | null {
    return this.tcp === undefined ? null : `nbds://${reachable(this.tcp)}/${uriPath(name)}`;
  }
}

/** Slashes stay as they are: clients take the whole path, without its first slash, for the name. */
function uriPath(name: string): string {
  return name.split('/').map(encodeURIComponent).join('/');
}

/** A wildcard address is nothing to connect to. */
function reachable(address: string): string {
  return address.replace(/^(0\.0\.0\.0|\[::\]):/, `${hostname()}:`);
}
