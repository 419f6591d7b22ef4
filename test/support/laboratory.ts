/**
 * Real agents on this machine, for benchmarks, the demo and end-to-end tests.
 *
 *   await using lab = await Laboratory.open();                 // temp directory, authority, an operator's certificate
 *   const pair = await startPair(lab, { disks: [{ name: 'data', sizeBytes }] });
 *   await pair.waitProtecting();                               // initial sync done, a complete checkpoint is durable
 *   const uri = await pair.exportUri('data');                  // write to it: runFio, qemu-io, nbdcopy …
 *   pair.link?.shape(20e6); pair.link?.cut();                  // with `linkProxy: true`
 *   await pair.target.kill(); await pair.target.start();       // kill -9, and again on the same directory
 *   pair.source.client.group(pair.group)                       // the typed API client, as operator
 *
 * Everything that a laboratory started ends with it, also when this process dies. Logs are DIRECTORY/NAME.log;
 * `keep: true` or TIDEMARK_KEEP=1 leaves the directory.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { initAuthority, issueInto } from '../../agent/src/pki/directory.js';
import { agentExecutable, type AgentExecutable } from './agent-executable.js';
import { AgentHandle, operatorName, type AgentSettings } from './agent-handle.js';
import { LinkProxy } from './link-proxy.js';
import { Processes } from './processes.js';

const openLaboratories = new Set<Laboratory>();
// An end in a hurry (a signal, an uncaught error): nothing asynchronous runs any more.
process.on('exit', () => openLaboratories.forEach((lab) => lab.abandon()));

export interface LaboratoryOptions {
  /** Default: TIDEMARK_TMP or /tmp. Short, because unix socket paths have at most 107 bytes. */
  readonly parentDirectory?: string;
  readonly keep?: boolean;
  /** Runs the agents as a bundle by this Node with these arguments, whatever TIDEMARK_AGENT says. */
  readonly bundleNodeArgs?: readonly string[];
}

export class Laboratory implements AsyncDisposable {
  readonly processes: Processes;
  #executable: Promise<AgentExecutable> | undefined;

  private constructor(
    readonly directory: string,
    private readonly keep: boolean,
    private readonly bundleNodeArgs: readonly string[] | undefined,
  ) {
    this.processes = new Processes(directory);
  }

  static async open({ parentDirectory, keep, bundleNodeArgs }: LaboratoryOptions = {}): Promise<Laboratory> {
    const parent = parentDirectory ?? process.env['TIDEMARK_TMP'] ?? '/tmp';
    const directory = mkdtempSync(join(parent, 'tidemark-'));
    const lab = new Laboratory(directory, keep ?? process.env['TIDEMARK_KEEP'] === '1', bundleNodeArgs);
    openLaboratories.add(lab);
    await initAuthority(lab.pkiDirectory);
    await issueInto(lab.pkiDirectory, operatorName);
    return lab;
  }

  get pkiDirectory(): string {
    return join(this.directory, 'pki');
  }

  /** PEM text of NAME.crt, NAME.key, ca.crt. */
  pem(file: string): string {
    return readFileSync(join(this.pkiDirectory, file), 'utf8');
  }

  /** Path of a file of the laboratory; its folder exists. */
  path(...names: string[]): string {
    const path = join(this.directory, ...names);
    mkdirSync(join(path, '..'), { recursive: true });
    return path;
  }

  /** Makes an agent (certificate, configuration, ports, directory) and starts it; resolves when it is ready. */
  async startAgent(name: string, settings: AgentSettings = {}): Promise<AgentHandle> {
    const agent = await this.prepareAgent(name, settings);
    await agent.start();
    return agent;
  }

  /** {@link startAgent} without the start. */
  async prepareAgent(name: string, settings: AgentSettings = {}): Promise<AgentHandle> {
    this.#executable ??= agentExecutable(this.processes, this.bundleNodeArgs);
    const executable = await this.#executable;
    await issueInto(this.pkiDirectory, name);
    const [api, stream, nbd] = await freePorts(3);
    return new AgentHandle(this, executable, name, settings, {
      api: `127.0.0.1:${api}`,
      stream: `127.0.0.1:${stream}`,
      nbd: `localhost:${nbd}`,
    });
  }

  startLink(name: string, toAddress: string): Promise<LinkProxy> {
    return LinkProxy.start(this.processes, name, toAddress);
  }

  async close(): Promise<void> {
    await this.processes.end();
    openLaboratories.delete(this);
    if (!this.keep) rmSync(this.directory, { recursive: true, force: true });
  }

  /** {@link close} without waiting: kill -9 for all. */
  abandon(): void {
    this.processes.killAll();
    if (!this.keep) rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Below what the kernel gives to connections: a stopped agent's port must still be free when it starts again. */
const firstPort = 10_000;
const portsOfProcess = 128;
let nextPort = 0;

/** TCP ports that nobody listens on now. Each process has a range of its own, so that two do not find the same. */
export async function freePorts(count: number): Promise<number[]> {
  const base = firstPort + (process.pid % 170) * portsOfProcess;
  const found: number[] = [];
  for (let tried = 0; found.length < count; tried++) {
    if (tried === portsOfProcess) throw new Error(`no free port of ${base}…${base + portsOfProcess - 1}`);
    const port = base + (nextPort++ % portsOfProcess);
    if (await isFree(port)) found.push(port);
  }
  return found;
}

function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
