/**
 * Child processes that never outlive their owner: `end` stops each by its pid, and the kernel kills what is left when
 * this process dies (`setpriv --pdeathsig`). What they print goes to a file each.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { GiveUp } from './wait.js';

export interface StartOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Writable standard input for a process that takes commands. Default: none. */
  readonly stdin?: boolean;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** SIGTERM, then after so long SIGKILL. */
const stopMs = 10_000;

export class ManagedProcess {
  readonly exited: Promise<Exit>;
  #exit: Exit | undefined;

  constructor(
    readonly name: string,
    readonly logFile: string,
    readonly child: ChildProcess,
  ) {
    this.exited = new Promise((resolve) => {
      child.once('error', () => resolve((this.#exit = { code: -1, signal: null })));
      child.once('exit', (code, signal) => resolve((this.#exit = { code, signal })));
    });
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  get isRunning(): boolean {
    return this.#exit === undefined;
  }

  /** The last lines it printed. */
  log(lineCount = 20): string {
    return readFileSync(this.logFile, 'utf8').trimEnd().split('\n').slice(-lineCount).join('\n');
  }

  /** For checks of `waitFor`: nobody waits for a dead process. */
  failIfExited(): void {
    if (this.#exit !== undefined)
      throw new GiveUp(`${this.name} ended (${this.#exit.signal ?? this.#exit.code}):\n${this.log()}`);
  }

  /** Sends the signal; resolves when it has ended. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<Exit> {
    if (this.isRunning) this.child.kill(signal);
    return this.exited;
  }

  /** SIGTERM, and SIGKILL when that takes longer than `timeoutMs`. */
  async stop(timeoutMs = stopMs): Promise<Exit> {
    const timer = setTimeout(() => this.child.kill('SIGKILL'), timeoutMs);
    const exit = await this.kill('SIGTERM');
    clearTimeout(timer);
    return exit;
  }
}

export class Processes implements AsyncDisposable {
  readonly #started = new Set<ManagedProcess>();

  constructor(private readonly logDirectory: string) {}

  /** Starts a process that stays. Its output is appended to NAME.log. */
  start(name: string, command: string, args: readonly string[], options: StartOptions = {}): ManagedProcess {
    const logFile = join(this.logDirectory, `${name}.log`);
    const output = openSync(logFile, 'a');
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', command, ...args], {
      stdio: [options.stdin === true ? 'pipe' : 'ignore', output, output],
      env: { ...process.env, ...options.env },
    });
    closeSync(output);
    const managed = new ManagedProcess(name, logFile, child);
    this.#started.add(managed);
    void managed.exited.then(() => this.#started.delete(managed));
    return managed;
  }

  /** Runs a command to its end; rejects with what it said unless it ends with 0. */
  run(command: string, args: readonly string[], { timeoutMs = 120_000 } = {}): Promise<string> {
    return new Promise((resolve, reject) => {
      const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', command, ...args], {
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: timeoutMs,
        killSignal: 'SIGKILL',
      });
      const stdout: Buffer[] = [];
      let stderr = '';
      child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
      child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr = (stderr + text).slice(-4000)));
      child.once('error', reject);
      child.once('close', (code, signal) => {
        const text = Buffer.concat(stdout).toString('utf8');
        if (code === 0) resolve(text);
        else
          reject(
            new Error(
              `${command} ${args.join(' ')}: ${signal === null ? `exit code ${code}` : signal}\n${stderr.trim() || text.slice(-2000)}`,
            ),
          );
      });
    });
  }

  async end(): Promise<void> {
    await Promise.all([...this.#started].map((each) => each.stop()));
  }

  /** For the end of this process: SIGKILL by pid, at once. */
  killAll(): void {
    for (const each of this.#started) each.child.kill('SIGKILL');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end();
  }
}
