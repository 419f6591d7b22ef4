/** What both ends of the stream's TLS have in common: version 1.3 only, certificates both ways, bounds. */
import type { TLSSocket } from 'node:tls';
import { TidemarkError } from '../core/errors.js';
import type { PeerIdentity } from '../core/transport.js';
import { peerName } from './tls-identity.js';

/** PEM texts. `ca` may hold several certificates; only they are trusted, never the system's. */
export interface TlsCredentials {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

export interface TlsLimits {
  /** From TCP connect (or accept) to both certificates verified. */
  readonly handshakeTimeoutMs: number;
  /** `onDrain` is called when `queuedBytes` comes down to this. */
  readonly lowWaterBytes: number;
  /** How long a closed connection may still hand over what was queued before it is cut. */
  readonly closeGraceMs: number;
}

export const tlsLimitsDefault: TlsLimits = {
  handshakeTimeoutMs: 10_000,
  lowWaterBytes: 128 * 1024,
  closeGraceMs: 2_000,
};

/** For tls.connect, tls.createServer and setSecureContext. */
export function secureOptions(credentials: TlsCredentials) {
  return { ...credentials, minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3' } as const;
}

/** Name and address of a socket whose certificate was verified against the trusted ones; else `peer-refused`. */
export function identityOf(socket: TLSSocket): PeerIdentity {
  const address = formatAddress(socket.remoteAddress ?? 'unknown', socket.remotePort ?? 0);
  const certificate = socket.getPeerX509Certificate();
  const name = certificate === undefined ? undefined : peerName(certificate);
  if (!socket.authorized || name === undefined) {
    throw new TidemarkError('peer-refused', `the certificate of ${address} does not give one trusted peer name`);
  }
  return { name, address };
}

/** host:port, with brackets around an IPv6 host. */
export function formatAddress(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Undoes {@link formatAddress}; throws `config-invalid` for anything else. */
export function parseAddress(address: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || !(port <= 65_535)) {
    throw new TidemarkError('config-invalid', `"${address}" is not host:port`, { path: address });
  }
  return { host, port };
}
