/** One agent of a laboratory: its configuration file, its process, a client of its API. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AgentClient } from '../../agent/src/client/agent-client.js';
import type { AgentConfigInput } from '../../agent/src/config/schema.js';
import type { AgentExecutable } from './agent-executable.js';
import type { ManagedProcess, Processes } from './processes.js';
import { waitFor } from './wait.js';

/** The configuration but what the laboratory gives: name, certificates, addresses, directories. Default site: `site-NAME`. */
export type AgentSettings = Partial<Omit<AgentConfigInput, 'agent' | 'tls' | 'listen' | 'dataDirectory' | 'access'>> & {
  readonly env?: Readonly<Record<string, string>>;
  /** Before the agent's own command: what it runs in. */
  readonly wrapper?: readonly string[];
  /** Serve NBD over TCP with TLS too, on `addresses.nbd`. */
  readonly nbdTcp?: boolean;
};

/** CN of the certificate that the tests' own API clients show. */
export const operatorName = 'operator';

interface Home {
  readonly directory: string;
  readonly pkiDirectory: string;
  readonly processes: Processes;
  pem(file: string): string;
}

export class AgentHandle {
  readonly directory: string;
  readonly dataDirectory: string;
  readonly configFile: string;
  readonly client: AgentClient;
  #settings: AgentSettings;
  #process: ManagedProcess | undefined;

  constructor(
    private readonly home: Home,
    private readonly executable: AgentExecutable,
    readonly name: string,
    settings: AgentSettings,
    readonly addresses: { readonly api: string; readonly stream: string; readonly nbd: string },
  ) {
    this.directory = join(home.directory, name);
    this.dataDirectory = join(this.directory, 'data');
    this.configFile = join(this.directory, 'agent.yaml');
    this.#settings = settings;
    mkdirSync(this.directory, { recursive: true });
    this.configure(settings);
    this.client = new AgentClient({
      url: `https://${addresses.api}`,
      certificate: home.pem(`${operatorName}.crt`),
      key: home.pem(`${operatorName}.key`),
      authority: home.pem('ca.crt'),
    });
  }

  get process(): ManagedProcess {
    if (this.#process === undefined) throw new Error(`${this.name} was not started`);
    return this.#process;
  }

  get wasStarted(): boolean {
    return this.#process !== undefined;
  }

  get isRunning(): boolean {
    return this.#process?.isRunning === true;
  }

  get pid(): number {
    return this.process.pid;
  }

  /** Writes the configuration file; a running agent sees it at its next start or SIGHUP. */
  configure(settings: AgentSettings): void {
    this.#settings = settings;
    const { env: _env, wrapper: _wrapper, nbdTcp, ...properties } = settings;
    const pki = (file: string): string => join(this.home.pkiDirectory, file);
    const config: AgentConfigInput = {
      site: `site-${this.name}`,
      agent: this.name,
      dataDirectory: this.dataDirectory,
      listen: {
        api: this.addresses.api,
        stream: this.addresses.stream,
        nbd: {
          socketDirectory: join(this.directory, 'nbd'),
          ...(nbdTcp === true ? { tcp: this.addresses.nbd } : {}),
        },
      },
      tls: { certificate: pki(`${this.name}.crt`), key: pki(`${this.name}.key`), authority: pki('ca.crt') },
      access: [{ name: operatorName, role: 'operator' }],
      ...properties,
    };
    // JSON is YAML.
    writeFileSync(this.configFile, JSON.stringify(config, null, 2));
  }

  /** Starts the process and waits until the API says ready. */
  async start({ timeoutMs = 60_000 } = {}): Promise<void> {
    if (this.isRunning) throw new Error(`${this.name} runs already`);
    const { command, args, env } = this.executable;
    const own = [command, ...args, 'agent', 'run', '--config', this.configFile];
    const [first = command, ...line] = [...(this.#settings.wrapper ?? []), ...own];
    const child = this.home.processes.start(
      this.name,
      first,
      line,
      // The memory allocator as in packaging/tidemark-agent.service.
      { env: { MALLOC_ARENA_MAX: '2', ...env, ...this.#settings.env } },
    );
    this.#process = child;
    const check = async (): Promise<boolean> => {
      child.failIfExited();
      return (await this.client.health()).ready;
    };
    await waitFor(`${this.name} ready (log ${child.logFile})`, check, { timeoutMs, everyMs: 50 });
  }

  /** SIGTERM, drains. Fails when it does not end with 0. */
  async stop(): Promise<void> {
    this.client.close();
    const { code, signal } = await this.process.stop(30_000);
    if (code !== 0) throw new Error(`${this.name} ended with ${signal ?? code}:\n${this.process.log()}`);
  }

  /** kill -9. */
  async kill(): Promise<void> {
    this.client.close();
    await this.process.kill('SIGKILL');
  }
}
