/**
 * One virsh that waits for commands, so that a call costs no start of a process: a thaw must go out in a millisecond. It is
 * given short lines only, and only calls whose reply is one line of JSON. One at a time; one that fails or is late ends it,
 * and the next call starts another. It ends with this process, however that dies.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { createInterface } from 'node:readline';
import { TidemarkError } from '../core/errors.js';
import type { Virsh } from './virsh.js';

/** Readline breaks what is longer than a screen is wide, and knows history and completion: none of it here. */
const environment = { TERM: 'dumb', COLUMNS: '32000', LINES: '100', INPUTRC: '/dev/null', VIRSH_HISTSIZE: '0' };

interface Pending {
  readonly resolve: (reply: string) => void;
  readonly reject: (error: Error) => void;
}

export class VirshShell {
  #child: ChildProcessWithoutNullStreams | undefined;
  #pending: Pending | undefined;
  #errors = '';
  /** When the last command was written, and when its reply could be read; `performance.now()`. */
  writtenMs = 0;
  repliedMs = 0;

  constructor(private readonly virsh: Virsh) {}

  /** True while it can take a command. */
  get isIdle(): boolean {
    return this.#pending === undefined;
  }

  /** Starts the process when there is none. */
  open(): void {
    if (this.#child !== undefined) return;
    const { file, args } = this.virsh.commandLine([]);
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', file, ...args], {
      env: { ...process.env, ...environment },
    });
    this.#child = child;
    this.#errors = '';
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (this.#child === child && line.startsWith('{')) this.#settle(({ resolve }) => resolve(line));
    });
    createInterface({ input: child.stderr }).on('line', (line) => {
      if (this.#child !== child || !line.startsWith('error:')) return;
      this.#errors = line.replace(/^error:\s*/, '');
      this.#settle(({ reject }) => reject(new TidemarkError('hypervisor-failed', this.#errors)));
    });
    child.stdin.on('error', () => this.#end(child, 'it takes no commands'));
    child.once('error', (error) => this.#end(child, error.message));
    child.once('exit', () => this.#end(child, this.#errors === '' ? 'it ended' : this.#errors));
  }

  /** The reply's line. Throws `hypervisor-failed` with virsh's words, or `timed-out`. */
  run(line: string, timeoutMs: number): Promise<string> {
    if (this.#pending !== undefined)
      return Promise.reject(new TidemarkError('hypervisor-failed', 'virsh is still busy with another command.'));
    this.open();
    const child = this.#child;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#settle((pending) =>
          pending.reject(new TidemarkError('timed-out', `virsh on ${this.virsh.uri} took over ${timeoutMs} ms.`)),
        );
        this.close();
      }, timeoutMs);
      this.#pending = {
        resolve: (reply) => {
          clearTimeout(timer);
          resolve(reply);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      child?.stdin.write(`${line}\n`);
      this.writtenMs = performance.now();
    });
  }

  /** Idempotent; a later call opens it again. */
  close(): void {
    const child = this.#child;
    if (child === undefined) return;
    this.#end(child, 'it was closed');
    child.kill('SIGKILL');
  }

  #settle(how: (pending: Pending) => void): void {
    const pending = this.#pending;
    if (pending === undefined) return;
    this.repliedMs = performance.now();
    this.#pending = undefined;
    how(pending);
  }

  #end(child: ChildProcessWithoutNullStreams, why: string): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    this.#settle(({ reject }) => reject(new TidemarkError('hypervisor-failed', `virsh on ${this.virsh.uri}: ${why}`)));
  }
}
