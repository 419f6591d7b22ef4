/** Accepts peers over TLS 1.3 with a certificate of the trusted authority; everybody else is dropped in the handshake. */
import { createServer, type Server, type TLSSocket } from 'node:tls';
import type { AddressInfo, Socket } from 'node:net';
import { TidemarkError } from '../core/errors.js';
import type { Connection, Listener } from '../core/transport.js';
import { TlsConnection } from './tls-connection.js';
import {
  formatAddress,
  identityOf,
  parseAddress,
  secureOptions,
  tlsLimitsDefault,
  type TlsCredentials,
  type TlsLimits,
} from './tls-options.js';

export interface TlsListenerOptions extends Partial<TlsLimits> {
  /** host:port; port 0 takes a free one. */
  readonly address: string;
  readonly credentials: TlsCredentials;
  /** Open sockets, those still shaking hands included; one more is dropped. Default 256. */
  readonly connectionCountMax?: number;
  /** Told of every peer that was turned away, for the log. */
  readonly onRefused?: (address: string, reason: string) => void;
}

export class TlsListener implements Listener {
  readonly #server: Server;
  readonly #options: TlsListenerOptions;
  readonly #limits: TlsLimits;
  readonly #connections = new Set<TlsConnection>();
  /** Every open socket by its peer's address. */
  readonly #sockets = new Map<string, Socket>();
  readonly #shakingHands = new Set<string>();
  #lastRefusal = 'closed during the handshake';
  #handler: ((connection: Connection) => void) | undefined;
  #closing: Promise<void> | undefined;

  /** Listens; throws `config-invalid` when the address cannot be had. */
  static async listen(options: TlsListenerOptions): Promise<TlsListener> {
    const listener = new TlsListener(options);
    await listener.#listen();
    return listener;
  }

  private constructor(options: TlsListenerOptions) {
    this.#options = options;
    this.#limits = { ...tlsLimitsDefault, ...options };
    this.#server = createServer({
      ...secureOptions(options.credentials),
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: this.#limits.handshakeTimeoutMs,
    });
    this.#server.maxConnections = options.connectionCountMax ?? 256;
    this.#server.on('connection', (socket) => this.#track(socket));
    this.#server.on('secureConnection', (socket) => this.#accept(socket));
    this.#server.on('tlsClientError', (error, socket) => {
      this.#lastRefusal = error.message.trim();
      socket.destroy(); // node does so only after some of the errors
    });
  }

  get address(): string {
    const { address, port } = this.#server.address() as AddressInfo;
    return formatAddress(address, port);
  }

  onConnection(handler: (connection: Connection) => void): void {
    this.#handler = handler;
  }

  /** For the next handshake; connections that exist keep what they were made with. */
  updateCredentials(credentials: TlsCredentials): void {
    this.#server.setSecureContext(secureOptions(credentials));
  }

  close(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      const cut = setTimeout(() => {
        for (const socket of this.#sockets.values()) socket.destroy();
      }, this.#limits.closeGraceMs);
      this.#server.close(() => {
        clearTimeout(cut);
        resolve();
      });
      for (const connection of this.#connections) connection.close('the listener was closed');
    });
    return this.#closing;
  }

  async #listen(): Promise<void> {
    const { address } = this.#options;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once('error', (error) =>
      reject(
        new TidemarkError('config-invalid', `cannot listen on ${address}: ${error.message}`, {
          path: address,
          cause: error,
        }),
      ),
    );
    this.#server.listen(parseAddress(address), resolve);
    await promise;
  }

  /** A TLS error names no address and the socket's close no reason: together, in this order, they name both. */
  #track(socket: Socket): void {
    const address = formatAddress(socket.remoteAddress ?? 'unknown', socket.remotePort ?? 0);
    this.#sockets.set(address, socket);
    this.#shakingHands.add(address);
    socket.once('close', () => {
      this.#sockets.delete(address);
      if (this.#shakingHands.delete(address)) this.#options.onRefused?.(address, this.#lastRefusal);
    });
  }

  /** Runs inside the handshake: a socket destroyed here never sends the ticket that the dialer waits for. */
  #accept(socket: TLSSocket): void {
    if (this.#handler === undefined || this.#closing !== undefined) {
      socket.destroy();
      return;
    }
    let connection: TlsConnection;
    try {
      connection = new TlsConnection(socket, identityOf(socket), this.#limits);
    } catch (error) {
      this.#lastRefusal = (error as Error).message;
      socket.destroy();
      return;
    }
    this.#shakingHands.delete(connection.peer.address);
    this.#connections.add(connection);
    socket.once('close', () => this.#connections.delete(connection));
    this.#handler(connection);
  }
}
