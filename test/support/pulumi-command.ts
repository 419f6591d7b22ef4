/** A Pulumi project in a directory of its own with a file backend, driven by the real CLI. */
import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from './paths.js';

/** Building the tools takes minutes the first time on a machine. */
export const toolsTimeoutMs = 40 * 60_000;
const defaultTimeoutMs = 180_000;
let tools: { readonly directory: string } | undefined;

/** Why the Pulumi CLI cannot be had here; undefined: it can. */
export function whyNoPulumi(): string | undefined {
  const { status, stderr } = spawnSync(toolsScript(), ['--check'], { encoding: 'utf8' });
  return status === 0 ? undefined : stderr.trim();
}

function toolsScript(): string {
  return join(repositoryRoot(), 'scripts', 'pulumi-tools.sh');
}

/** Makes CLI, language hosts and provider ready; once for each process. */
export function pulumiTools(): string {
  if (tools === undefined) {
    const directory = execFileSync(toolsScript(), { encoding: 'utf8', timeout: toolsTimeoutMs }).trim();
    buildProvider();
    tools = { directory };
  }
  return tools.directory;
}

export function buildProvider(): void {
  execFileSync(process.execPath, [join(repositoryRoot(), 'scripts', 'build-provider.ts')], {
    timeout: defaultTimeoutMs,
  });
}

export function providerDirectory(): string {
  return join(repositoryRoot(), 'dist', 'provider');
}

export interface CommandResult {
  readonly code: number;
  /** stdout and stderr, as a terminal would show them. */
  readonly output: string;
}

export interface PulumiProjectOptions {
  readonly directory: string;
  readonly name?: string;
  /** Of Pulumi.yaml, besides name and plugins: `runtime: yaml` and its resources, or another runtime. */
  readonly program: Readonly<Record<string, unknown>>;
  readonly config?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
  /** Of each command. Default 180,000. */
  readonly timeoutMs?: number;
  /** A signal of the terminal does not reach its commands: who starts one ends it. */
  readonly detached?: boolean;
}

export class PulumiProject {
  readonly directory: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #name: string;
  readonly #timeoutMs: number;
  readonly #detached: boolean;

  private constructor(options: PulumiProjectOptions) {
    this.directory = options.directory;
    this.#name = options.name ?? 'demo';
    this.#timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
    this.#detached = options.detached ?? false;
    const home = join(options.directory, 'home');
    mkdirSync(join(options.directory, 'state'), { recursive: true });
    mkdirSync(home, { recursive: true });
    this.#env = {
      ...process.env,
      PATH: `${pulumiTools()}:${process.env['PATH']}`,
      PULUMI_HOME: home,
      PULUMI_BACKEND_URL: `file://${join(options.directory, 'state')}`,
      PULUMI_CONFIG_PASSPHRASE: 'test',
      PULUMI_SKIP_UPDATE_CHECK: 'true',
      PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: 'true',
      NO_COLOR: '1',
      ...options.env,
    };
    this.program(options.program);
  }

  /** With an initialised stack `dev`. */
  static async open(options: PulumiProjectOptions): Promise<PulumiProject> {
    const project = new PulumiProject(options);
    await project.run('stack', 'init', 'dev');
    for (const [name, value] of Object.entries(options.config ?? {})) await project.config(name, value);
    return project;
  }

  /** Replaces the program. */
  program(program: Readonly<Record<string, unknown>>): void {
    const plugins = { providers: [{ name: 'tidemark', path: providerDirectory() }] };
    writeFileSync(
      join(this.directory, 'Pulumi.yaml'),
      JSON.stringify({ name: this.#name, plugins, ...program }, null, 2),
    );
  }

  async config(name: string, value: string, ...flags: string[]): Promise<void> {
    await this.run('config', 'set', ...flags, name, '--', value);
  }

  up(...flags: string[]): Promise<CommandResult> {
    return this.try('up', '--yes', '--suppress-progress', ...flags);
  }

  preview(...flags: string[]): Promise<CommandResult> {
    return this.try('preview', '--suppress-progress', ...flags);
  }

  refresh(...flags: string[]): Promise<CommandResult> {
    return this.try('refresh', '--yes', '--suppress-progress', ...flags);
  }

  destroy(...flags: string[]): Promise<CommandResult> {
    return this.try('destroy', '--yes', '--suppress-progress', ...flags);
  }

  async outputs<Outputs = Record<string, unknown>>(): Promise<Outputs> {
    return JSON.parse(await this.run('stack', 'output', '--json', '--show-secrets')) as Outputs;
  }

  /** Resources of the stack as the state has them, secrets still encrypted. */
  async resources(): Promise<StateResource[]> {
    const state = JSON.parse(await this.run('stack', 'export')) as { deployment: { resources?: StateResource[] } };
    return state.deployment.resources ?? [];
  }

  /** Its output; throws when it does not end with 0. */
  async run(...args: string[]): Promise<string> {
    const { code, output } = await this.try(...args);
    if (code !== 0) throw new Error(`pulumi ${args.join(' ')} ended with ${code}:\n${output}`);
    return output;
  }

  /** A script that calls `pulumi` in the project's directory; its output, throws when it does not end with 0. */
  script(file: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<string> {
    const options = { cwd: this.directory, env: { ...this.#env, ...env }, timeout: this.#timeoutMs };
    return new Promise((resolve, reject) =>
      execFile(file, args, options, (error, stdout, stderr) => {
        if (error === null) resolve(stdout + stderr);
        else reject(new Error(`${file} ${args.join(' ')} ended with ${error.code}:\n${stdout}${stderr}`));
      }),
    );
  }

  try(...args: string[]): Promise<CommandResult> {
    return this.start(...args).ended;
  }

  /** A command that the test may end. */
  start(...args: string[]): RunningCommand {
    const child = spawn('pulumi', ['--non-interactive', '--cwd', this.directory, ...args], {
      env: this.#env,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: this.#timeoutMs,
      killSignal: 'SIGKILL',
      detached: this.#detached,
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => (output += text));
    const ended = new Promise<CommandResult>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve({ code: code ?? -1, output }));
    });
    return { pid: child.pid ?? -1, ended, kill: (signal) => child.kill(signal) };
  }
}

export interface RunningCommand {
  readonly pid: number;
  readonly ended: Promise<CommandResult>;
  /** False: it has ended. */
  kill(signal: 'SIGINT' | 'SIGKILL'): boolean;
}

export interface StateResource {
  readonly urn: string;
  readonly type: string;
  readonly id?: string;
  readonly inputs?: Readonly<Record<string, unknown>>;
  readonly outputs?: Readonly<Record<string, unknown>>;
}
