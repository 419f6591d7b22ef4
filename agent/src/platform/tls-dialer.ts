/**
 * Dials a peer's TLS listener.
 *
 * In TLS 1.3 the client is done before the server has looked at its certificate, so a refusal would come later as a
 * broken connection. Our listener sends a session ticket once it has accepted: `dial` waits for that ticket, and calls
 * an end before it `peer-refused`. The peer's host name is not checked; its name comes from the certificate and the
 * caller compares it with the one it wants.
 */
import { connect, type TLSSocket } from 'node:tls';
import { TidemarkError } from '../core/errors.js';
import type { Connection, Dialer } from '../core/transport.js';
import { errnoOf } from './node-errors.js';
import { TlsConnection } from './tls-connection.js';
import {
  identityOf,
  parseAddress,
  secureOptions,
  tlsLimitsDefault,
  type TlsCredentials,
  type TlsLimits,
} from './tls-options.js';

/** Codes of OpenSSL's certificate verification. */
const certificateError = /CERT|ISSUER|SIGNATURE|CA$/;

export class TlsDialer implements Dialer {
  readonly #limits: TlsLimits;
  #credentials: TlsCredentials;

  constructor(credentials: TlsCredentials, limits: Partial<TlsLimits> = {}) {
    this.#credentials = credentials;
    this.#limits = { ...tlsLimitsDefault, ...limits };
  }

  /** For the next dial; connections that exist keep what they were made with. */
  updateCredentials(credentials: TlsCredentials): void {
    this.#credentials = credentials;
  }

  /** Rejects with the signal's reason when it aborts first. */
  async dial(address: string, signal: AbortSignal): Promise<Connection> {
    signal.throwIfAborted();
    const socket = connect({
      ...parseAddress(address),
      ...secureOptions(this.#credentials),
      checkServerIdentity: () => undefined,
    });
    try {
      await accepted(socket, address, this.#limits.handshakeTimeoutMs, signal);
      return new TlsConnection(socket, identityOf(socket), this.#limits);
    } catch (error) {
      socket.on('error', () => undefined);
      socket.destroy();
      throw error;
    }
  }
}

function accepted(socket: TLSSocket, address: string, timeoutMs: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let clientDone = false;
  const fail = (cause: Error): void => reject(dialError(address, cause, clientDone));
  const onAbort = (): void => reject(signal.reason as Error);
  const onClose = (): void => fail(new Error('closed during the handshake'));
  const timer = setTimeout(() => {
    clientDone = false;
    fail(new Error(`no handshake within ${timeoutMs} ms`));
  }, timeoutMs);
  signal.addEventListener('abort', onAbort, { once: true });
  socket.on('error', fail);
  socket.on('close', onClose);
  socket.once('secureConnect', () => (clientDone = true));
  // In a turn of its own: node keeps back what is written from inside this event until the next write.
  socket.once('session', () => setImmediate(resolve));
  return promise.finally(() => {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    socket.off('error', fail);
    socket.off('close', onClose);
  });
}

/** An end after the client was done, a TLS alert or a certificate error is a refusal; else the peer was not reached. */
function dialError(address: string, cause: Error, clientDone: boolean): TidemarkError {
  const code = errnoOf(cause) ?? '';
  const refused = clientDone || code.startsWith('ERR_SSL') || code.startsWith('ERR_TLS') || certificateError.test(code);
  return new TidemarkError(
    refused ? 'peer-refused' : 'peer-unreachable',
    `cannot connect to ${address}: ${code === '' ? cause.message : code}`,
    { path: address, cause },
  );
}
