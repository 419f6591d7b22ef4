/** The real API server over TLS on loopback with the fake service, and clients of each role. */
import pino from 'pino';
import { AgentClient } from '../../agent/src/client/agent-client.js';
import { startApiServer, type ApiOptions, type ApiServer } from '../../agent/src/control/server.js';
import { createAuthority, issueCertificate, type KeyPair } from '../../agent/src/pki/authority.js';
import type { Role } from '../../agent/src/service/agent-schemas.js';
import { FakeService } from './fake-service.js';

export const roles = new Map<string, Role>([
  ['alice', 'operator'],
  ['src-1', 'peer'],
  ['rita', 'reader'],
]);

export class ApiFixture {
  readonly service = new FakeService();
  readonly authority: KeyPair;
  readonly server: ApiServer;
  readonly #clients: AgentClient[] = [];

  private constructor(authority: KeyPair, server: (service: FakeService) => ApiServer, service: FakeService) {
    this.authority = authority;
    this.service = service;
    this.server = server(service);
  }

  static async start(limits: ApiOptions['limits'] = {}): Promise<ApiFixture> {
    const authority = await createAuthority();
    const own = await issueCertificate(authority, 'fra-1');
    const service = new FakeService();
    const server = await startApiServer({
      service,
      address: '127.0.0.1:0',
      tls: { ...own, authority: authority.certificate },
      roleOf: (name) => roles.get(name),
      log: pino({ level: 'silent' }),
      limits,
    });
    return new ApiFixture(authority, () => server, service);
  }

  get url(): string {
    return `https://${this.server.address}`;
  }

  issue(name: string): Promise<KeyPair> {
    return issueCertificate(this.authority, name);
  }

  /** A client with a certificate of that name, by default trusting the fixture's authority. */
  async client(name: string, authority = this.authority): Promise<AgentClient> {
    const pair = await issueCertificate(authority, name);
    const client = new AgentClient({
      url: this.url,
      ...pair,
      authority: this.authority.certificate,
      timeoutMs: 10_000,
    });
    this.#clients.push(client);
    return client;
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) client.close();
    await this.server.close();
  }
}
