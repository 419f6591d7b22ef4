/** Runs virsh against one libvirt daemon. Every call has a deadline; what virsh says on failure is in the error. */
import { execFile } from 'node:child_process';
import { TidemarkError } from '../core/errors.js';

/** Deadline of a call that names none. */
const timeoutMsDefault = 15_000;
const outputBytesMax = 16 * 1024 * 1024;

export interface VirshOptions {
  /** Connection URI, e.g. `qemu:///system`. */
  readonly uri: string;
  /** Command and leading arguments. Default `['virsh']`; a namespace wrapper in tests. */
  readonly command?: readonly string[] | undefined;
}

export interface VirshCall {
  /** Milliseconds; then virsh is killed and the call fails with `timed-out`. Default 15 s. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
}

export class Virsh {
  readonly uri: string;
  private readonly command: readonly string[];

  constructor({ uri, command = ['virsh'] }: VirshOptions) {
    this.uri = uri;
    this.command = command;
  }

  /** Arguments that start virsh on this daemon, for callers that need the process itself (event loops). */
  commandLine(args: readonly string[]): { file: string; args: string[] } {
    const [file = 'virsh', ...leading] = this.command;
    return { file, args: [...leading, '-q', '-c', this.uri, ...args] };
  }

  /** What virsh printed. Throws `hypervisor-failed` with its words, or `timed-out`. */
  run(args: readonly string[], { timeoutMs = timeoutMsDefault, signal }: VirshCall = {}): Promise<string> {
    const { file, args: line } = this.commandLine(args);
    const options = {
      timeout: Math.ceil(timeoutMs),
      killSignal: 'SIGKILL',
      maxBuffer: outputBytesMax,
      signal,
    } as const;
    return new Promise((resolve, reject) => {
      execFile(file, line, options, (error, stdout, stderr) => {
        if (error === null) resolve(stdout);
        else if (signal?.aborted === true) reject(signal.reason as Error);
        else if (error.killed === true)
          reject(new TidemarkError('timed-out', `virsh ${args[0]} on ${this.uri} took over ${timeoutMs} ms.`));
        else
          reject(
            new TidemarkError(
              'hypervisor-failed',
              `virsh ${args[0]} on ${this.uri}: ${stderr.trim() || error.message}`,
              {
                cause: error,
              },
            ),
          );
      });
    });
  }
}
