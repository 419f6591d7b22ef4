/** A virsh that prints events for ever, started again when it ends; it ends with this process, however that dies. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Clock, Timer } from '../core/clock.js';
import type { Virsh } from './virsh.js';

const againMsMin = 500;
const againMsMax = 10_000;
/** A run of this length was a good one: the next failure begins with the short wait. */
const soundMs = 30_000;

export interface VirshLoopOptions {
  readonly virsh: Virsh;
  readonly args: readonly string[];
  readonly clock: Clock;
  readonly onLine: (line: string) => void;
  /** Started (again): what happened before may have been missed. */
  readonly onStart: () => void;
}

export class VirshLoop {
  readonly #o: VirshLoopOptions;
  #child: ChildProcess | undefined;
  #timer: Timer | undefined;
  #againMs = againMsMin;
  #stopped = false;

  constructor(options: VirshLoopOptions) {
    this.#o = options;
    this.#start();
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#child?.kill('SIGKILL');
  }

  #start(): void {
    const { virsh, args, clock, onLine, onStart } = this.#o;
    const { file, args: line } = virsh.commandLine(args);
    const startedMs = clock.monotonicMs();
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', file, ...line], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    this.#child = child;
    createInterface({ input: child.stdout }).on('line', onLine);
    child.once('spawn', onStart);
    let over = false;
    const again = (): void => {
      if (over || this.#stopped) return;
      over = true;
      const sound = clock.monotonicMs() - startedMs > soundMs;
      this.#againMs = sound ? againMsMin : Math.min(againMsMax, this.#againMs * 2);
      this.#timer = clock.after(this.#againMs, () => this.#start());
    };
    child.once('error', again);
    child.once('exit', again);
  }
}
