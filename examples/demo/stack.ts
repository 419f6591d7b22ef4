/** The demo's stack: the real CLI with a file backend. What it is doing is told while it does it, from the engine's event log. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatSeconds } from '../../agent/src/cli/format.js';
import type { RecoveryRequest } from '../../components/index.js';
import { operatorName, type AgentHandle } from '../../test/support/agent-handle.js';
import type { Laboratory } from '../../test/support/laboratory.js';
import { repositoryRoot } from '../../test/support/paths.js';
import { PulumiProject, type RunningCommand } from '../../test/support/pulumi-command.js';
import { EngineEvents } from './engine-events.js';
import type { Screen } from './screen.js';

const commandTimeoutMs = 900_000;
/** An engine that is told to cancel ends its plugins too; then it is killed. */
const cancelMs = 10_000;
/** The most lines of a failed command that are shown. */
const errorLineCount = 30;

export interface StackOptions {
  readonly lab: Laboratory;
  readonly amsterdam: AgentHandle;
  readonly frankfurt: AgentHandle;
  /** Sizes of the disks of each VM, by their targets. */
  readonly disks: Readonly<Record<'db' | 'client', Readonly<Record<string, number>>>>;
  readonly screen: Pick<Screen, 'command' | 'quote' | 'during'>;
}

export interface Outputs {
  readonly activeSite: string;
  readonly addresses: Readonly<Record<string, readonly string[]>>;
  readonly state: string;
}

export class DemoStack implements AsyncDisposable {
  #commandCount = 0;
  #running: RunningCommand | undefined;

  private constructor(
    private readonly project: PulumiProject,
    private readonly screen: StackOptions['screen'],
  ) {}

  static async open({ lab, amsterdam, frankfurt, disks, screen }: StackOptions): Promise<DemoStack> {
    const directory = join(lab.directory, 'stack');
    mkdirSync(directory);
    const pki = (file: string): string => join(lab.pkiDirectory, file);
    const reached = ({ name, addresses }: AgentHandle): string =>
      JSON.stringify({ name, api: `https://${addresses.api}` });
    const project = await PulumiProject.open({
      directory,
      program: { runtime: { name: 'nodejs' }, main: join(repositoryRoot(), 'examples', 'demo') },
      timeoutMs: commandTimeoutMs,
      detached: true,
      // As the Automation API does: without it there is no event log.
      env: { PULUMI_DEBUG_COMMANDS: 'true' },
      config: {
        'tidemark:certificate': pki(`${operatorName}.crt`),
        'tidemark:key': pki(`${operatorName}.key`),
        'tidemark:authority': pki('ca.crt'),
        amsterdam: reached(amsterdam),
        frankfurt: reached(frankfurt),
        disks: JSON.stringify(disks),
      },
    });
    return new DemoStack(project, screen);
  }

  /** Asks for a transition: the next update runs it, once. */
  async ask(request: RecoveryRequest): Promise<void> {
    const text = JSON.stringify(request).replaceAll(',"', ', "').replaceAll('":', '": ');
    this.screen.command(`pulumi config set recovery '${text}'`);
    await this.project.config('recovery', text);
  }

  preview(): Promise<void> {
    return this.#run('preview');
  }

  up(): Promise<void> {
    return this.#run('up', '--yes', '--skip-preview');
  }

  outputs(): Promise<Outputs> {
    return this.project.outputs<Outputs>();
  }

  /** Ends the command that runs, and what it started. */
  async [Symbol.asyncDispose](): Promise<void> {
    const running = this.#running;
    if (running?.kill('SIGINT') !== true) return;
    await Promise.race([running.ended, sleep(cancelMs, undefined, { ref: false })]);
    running.kill('SIGKILL');
  }

  async #run(command: 'preview' | 'up', ...flags: string[]): Promise<void> {
    const { screen, project } = this;
    screen.command(`pulumi ${command}`);
    const log = join(project.directory, `events-${++this.#commandCount}.json`);
    const startedMs = performance.now();
    await screen.during(`pulumi ${command}`, async (report) => {
      this.#running = project.start(command, ...flags, '--event-log', log);
      const events = new EngineEvents(log, {
        onStatus: (text) => report(null, text),
        onLine: (text) => screen.quote(text),
      });
      try {
        const { code, output } = await this.#running.ended;
        if (code !== 0)
          throw new Error(
            `pulumi ${command} ended with ${code}:\n${output.trimEnd().split('\n').slice(-errorLineCount).join('\n')}`,
          );
      } finally {
        events.end();
        this.#running = undefined;
      }
    });
    screen.quote(`done in ${formatSeconds((performance.now() - startedMs) / 1000)}`);
  }
}
