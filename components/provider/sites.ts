/** Clients of agents, one for each URL, with the identity of the provider's configuration. Connects on first use. */
import { readFileSync } from 'node:fs';
import { AgentClient, isTidemarkError, TidemarkError, type ErrorCode } from '../agent-client.js';
import type { ProviderConfig, SiteInput } from './inputs.js';

/** The agent could not be asked; what it holds is as it was. */
const unreachableCodes: readonly ErrorCode[] = [
  'peer-unreachable',
  'peer-refused',
  'protocol-error',
  'timed-out',
  'overloaded',
  'shutting-down',
  'group-not-opened',
];

export function isUnreachable(error: unknown): error is TidemarkError {
  return isTidemarkError(error) && unreachableCodes.includes(error.code);
}

export class Sites {
  readonly #clients = new Map<string, AgentClient>();
  #config: ProviderConfig | undefined;

  configure(config: ProviderConfig): void {
    this.#config = config;
  }

  client({ api, serverName }: SiteInput): AgentClient {
    const name = `${api} ${serverName ?? ''}`;
    const known = this.#clients.get(name);
    if (known !== undefined) return known;
    if (this.#config === undefined) throw new TidemarkError('request-invalid', 'The provider is not configured.');
    const { timeoutSeconds } = this.#config;
    const client = new AgentClient({
      url: api,
      certificate: pemOf(this.#config, 'certificate'),
      key: pemOf(this.#config, 'key'),
      authority: pemOf(this.#config, 'authority'),
      timeoutMs: timeoutSeconds * 1000,
      ...(serverName === undefined ? {} : { serverName }),
    });
    this.#clients.set(name, client);
    return client;
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
  }
}

function pemOf(config: ProviderConfig, property: 'certificate' | 'key' | 'authority'): string {
  const textOrPath = config[property];
  if (textOrPath === undefined)
    throw new TidemarkError(
      'config-invalid',
      `tidemark:${property} is not set: agents are asked with a certificate of an operator, by configuration or by a provider of its own.`,
      { path: property },
    );
  if (textOrPath.includes('-----BEGIN ')) return textOrPath;
  try {
    return readFileSync(textOrPath, 'utf8');
  } catch {
    throw new TidemarkError('config-invalid', `tidemark:${property} is neither PEM nor a file that can be read.`, {
      path: property,
    });
  }
}
