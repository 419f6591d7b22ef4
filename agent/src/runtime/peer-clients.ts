/** Clients of the peers' control APIs, with this agent's own certificate: it has the role `peer` there. */
import { X509Certificate } from 'node:crypto';
import { AgentClient } from '../client/agent-client.js';
import type { AgentConfig } from '../config/schema.js';
import { TidemarkError } from '../core/errors.js';
import { peerName } from '../platform/tls-identity.js';
import type { TlsMaterial } from './tls-files.js';

/** For connecting and for each answer; what waits on purpose adds to it. */
const timeoutMs = 10_000;

export interface PeerClientsOptions {
  /** Of the configuration in force. */
  readonly peers: () => AgentConfig['peers'];
  readonly tls: () => TlsMaterial;
}

/** Opens a client, calls, and closes it: nothing is kept, so a reload is in force at the next use. */
export class PeerClients {
  constructor(private readonly options: PeerClientsOptions) {}

  /** Throws `peer-api-unknown` when the configuration does not say where the peer's API is. */
  check(peer: string): void {
    this.addressOf(peer);
  }

  /** `peer-refused` when another than that peer answers, `peer-unreachable` when nobody does. */
  async use<T>(peer: string, call: (client: AgentClient) => Promise<T>): Promise<T> {
    const client = new AgentClient({
      url: `https://${this.addressOf(peer)}`,
      ...this.options.tls(),
      timeoutMs,
      checkCertificate: (der) => checkName(peer, der),
    });
    try {
      return await call(client);
    } finally {
      client.close();
    }
  }

  private addressOf(peer: string): string {
    const index = this.options.peers().findIndex(({ name }) => name === peer);
    const api = this.options.peers()[index]?.api;
    if (api !== undefined) return api;
    throw new TidemarkError(
      'peer-api-unknown',
      index < 0 ? `${peer} is not in peers.` : `The configuration does not say where the control API of ${peer} is.`,
      { path: index < 0 ? 'peers' : `peers[${index}].api` },
    );
  }
}

/** As for streams: the name in the certificate counts, not the host. */
function checkName(peer: string, der: Uint8Array): Error | undefined {
  const name = peerName(new X509Certificate(der));
  if (name === peer) return undefined;
  return new TidemarkError('peer-refused', `the certificate is of ${name ?? 'nobody'}, not ${peer}`);
}
