/**
 * A machine that an appliance is put on. Everything that installing, upgrading and removing needs of it is one thing: to run
 * a small POSIX shell script there. Other kinds of machines (AWS, vSphere) come as other implementations of this interface,
 * once they have started a machine that answers.
 */
import type { Readable } from 'node:stream';

export interface RunOptions {
  /** Given to the script as its standard input: file contents and secrets, which no process list may show. */
  readonly input?: string | Readable;
  /** Then it is ended, and `timed-out` is thrown. Default 60 s. */
  readonly timeoutMs?: number;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Host extends AsyncDisposable {
  /** For messages, e.g. `root@10.0.0.5:22`. */
  readonly name: string;
  /**
   * Runs `sh -c SCRIPT sh ARGS…` with the rights that the machine was given with, whatever its exit code.
   * Throws `host-unreachable` when the machine went away.
   */
  run(script: string, args: readonly string[], options?: RunOptions): Promise<RunResult>;
}

export const runMsDefault = 60_000;
/** More output than this is cut off. */
export const outputCharactersMax = 64 * 1024;
