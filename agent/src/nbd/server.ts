/** The NBD server: exports by name, served on unix sockets (mode 0600) and on TCP, there only inside of TLS. */
import { createServer, Socket, type AddressInfo, type Server } from 'node:net';
import { createSecureContext } from 'node:tls';
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { invariant } from '../core/invariant.js';
import type { ExportBackend } from './backend.js';
import { ServerConnection, type ConnectionHost, type GuardedConnection, type ServerTls } from './connection.js';
import { ServedExport, type ExportDirectory, type ExportStatus } from './export.js';
import { nbdLimitsDefault, type NbdLimits } from './limits.js';
import { payloadBytesMax, stringBytesMax } from './protocol.js';
import type { SlabPool } from './slab.js';
import { listenUnix, removeUnixSocket } from './unix-socket.js';

/** PEM texts. With `ca` a client must show a certificate of that authority. */
export interface NbdTlsMaterial {
  readonly cert: string;
  readonly key: string;
  readonly ca?: string;
}

export interface NbdServerOptions {
  readonly slabs: SlabPool;
  readonly clock: Clock;
  readonly limits?: Partial<NbdLimits>;
  /** A backend failed in a way that is no expected failure; the client got EIO. */
  readonly onFault?: (error: unknown) => void;
  /** A client of an export with a `guardGroup` begins its transmission. */
  readonly onGuarded?: (connection: GuardedConnection) => void;
}

export interface AddExportOptions {
  /** Shown by LIST and INFO. */
  readonly description?: string;
  /** Default `limits.exportConnectionsMax`. */
  readonly connectionsMax?: number;
}

/** What an export may take to end its requests before its clients are cut. */
const graceMsDefault = 5_000;

export class NbdServer {
  readonly #limits: NbdLimits;
  readonly #host: ConnectionHost;
  readonly #exports = new Map<string, ServedExport>();
  readonly #connections = new Set<ServerConnection>();
  readonly #listeners = new Map<Server, string | undefined>();
  #tls: ServerTls | undefined;
  #refusedCount = 0;

  constructor(options: NbdServerOptions) {
    this.#limits = { ...nbdLimitsDefault, ...options.limits };
    const directory: ExportDirectory = {
      names: () => this.#exports.values(),
      find: (name) => this.#exports.get(name),
    };
    const onFault = options.onFault ?? ((): void => undefined);
    const { slabs, clock, onGuarded } = options;
    this.#host = { directory, slabs, limits: this.#limits, clock, onFault, onGuarded };
  }

  /** `storage-exists` when the name is taken; a name has at most 4096 bytes. */
  addExport(name: string, backend: ExportBackend, options: AddExportOptions = {}): void {
    if (this.#exports.has(name)) throw new TidemarkError('storage-exists', `There is an NBD export "${name}" already.`);
    const description = options.description ?? '';
    invariant(Buffer.byteLength(name) <= stringBytesMax && !name.includes('\0'), 'nbd: export name');
    invariant(Buffer.byteLength(description) <= stringBytesMax, 'nbd: export description');
    const { sizeBytes, minimumBlockBytes, preferredBlockBytes } = backend;
    invariant(Number.isSafeInteger(sizeBytes) && sizeBytes % minimumBlockBytes === 0, 'nbd: export size');
    invariant(minimumBlockBytes <= preferredBlockBytes && preferredBlockBytes <= payloadBytesMax, 'nbd: block sizes');
    const connectionsMax = options.connectionsMax ?? this.#limits.exportConnectionsMax;
    this.#exports.set(name, new ServedExport(name, backend, description, connectionsMax));
  }

  /**
   * Takes no new client, answers what is in flight, cuts who is not gone after `graceMs` (default 5000; 0: at once) and
   * resolves when the backend's last request has ended. An unknown name is not an error.
   */
  async removeExport(name: string, options: { readonly graceMs?: number } = {}): Promise<void> {
    const target = this.#exports.get(name);
    if (target === undefined) return;
    target.closing = true;
    const clients = [...this.#connections].filter((connection) => connection.target === target);
    await Promise.all(clients.map((connection) => connection.stop(options.graceMs ?? graceMsDefault)));
    if (this.#exports.get(name) === target) this.#exports.delete(name);
  }

  exportStatus(name: string): ExportStatus | undefined {
    return this.#exports.get(name)?.status(this.#host.clock);
  }

  exports(): ExportStatus[] {
    return [...this.#exports.values()].map((served) => served.status(this.#host.clock));
  }

  /** Age of the oldest unanswered write of the exports with a `guardGroup`; 0 when there is none. */
  oldestGuardedMs(): number {
    let oldestMs = 0;
    for (const served of this.#exports.values())
      if (served.backend.guardGroup !== undefined)
        oldestMs = Math.max(oldestMs, served.oldestUnacknowledgedMs(this.#host.clock));
    return oldestMs;
  }

  /** Clients now, negotiating ones included; and those refused since the start for want of a free place. */
  get connectionCounts(): { readonly current: number; readonly refused: number } {
    return { current: this.#connections.size, refused: this.#refusedCount };
  }

  /** Serves on a unix socket. Throws `storage-exists` when somebody listens there, `config-invalid`, `storage-io`. */
  async listenUnix(path: string): Promise<void> {
    const server = createServer({ pauseOnConnect: true }, (accepted) => this.#accept(accepted, false));
    await listenUnix(server, path);
    this.#listeners.set(server, path);
  }

  /** Serves on TCP, where a client can do nothing but start TLS 1.3. Returns the port, also when 0 was asked for. */
  async listenTcp(address: { readonly host: string; readonly port: number }, tls: NbdTlsMaterial): Promise<number> {
    this.setTls(tls);
    const server = createServer({ pauseOnConnect: true, noDelay: true }, (accepted) => this.#accept(accepted, true));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host: address.host, port: address.port }, () => {
        server.off('error', reject);
        resolve();
      });
    });
    this.#listeners.set(server, undefined);
    return (server.address() as AddressInfo).port;
  }

  /** New certificates for connections from now on. */
  setTls(material: NbdTlsMaterial): void {
    const context = createSecureContext({ ...material, minVersion: 'TLSv1.3' });
    this.#tls = { context, mutual: material.ca !== undefined };
  }

  /** Stops listening, answers what is in flight, cuts who is not gone after `graceMs`. Idempotent. */
  async close(options: { readonly graceMs?: number } = {}): Promise<void> {
    const listeners = [...this.#listeners];
    this.#listeners.clear();
    for (const [server, path] of listeners) {
      server.close();
      if (path !== undefined) await removeUnixSocket(path);
    }
    const graceMs = options.graceMs ?? graceMsDefault;
    await Promise.all([...this.#connections].map((connection) => connection.stop(graceMs)));
  }

  #accept(accepted: Socket, tcp: boolean): void {
    if (this.#connections.size >= this.#limits.connectionsMax) {
      this.#refusedCount++;
      accepted.destroy();
      return;
    }
    const connection = new ServerConnection(this.#host, tcp ? this.#tls : undefined);
    this.#connections.add(connection);
    void connection.gone.then(() => this.#connections.delete(connection));
    if (tcp) connection.start(accepted, true);
    else connection.start(rewrap(accepted, connection.onread), false);
  }
}

/**
 * An accepted socket cannot be told where to read to: `onread` is an option of the constructor. So its handle moves to a
 * new socket, and the empty one is destroyed (which the server needs for its count).
 */
function rewrap(accepted: Socket, onread: ServerConnection['onread']): Socket {
  const shell = accepted as unknown as { _handle: unknown };
  const handle = shell._handle;
  shell._handle = null;
  accepted.destroy();
  return new Socket({ handle, onread } as unknown as ConstructorParameters<typeof Socket>[0]);
}
