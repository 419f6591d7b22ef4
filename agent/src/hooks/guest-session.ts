/**
 * The way into one guest that hooks use: by its guest agent (guest-agent-session.ts) or over SSH (ssh-session.ts). Both
 * behave the same; `test/hooks/scripted-guest.ts` is a third, which plays a vendor's dialogue.
 *
 * While a file system of the guest is frozen nothing here may be called: the guest agent refuses programs, and a shell may
 * hang on a write. The coordinator sees to it: it freezes last and thaws first.
 */
export interface ProgramOptions {
  /** Given to the program as its standard input: statements, and secrets, which no process list may show. */
  readonly input?: string | undefined;
  /** Beside the program's usual environment; may hold secrets. */
  readonly environment?: Readonly<Record<string, string>> | undefined;
  /** Then it is killed in the guest and `timed-out` is thrown; a statement that waits for a lock goes with it. */
  readonly timeoutMs: number;
}

export interface ProgramResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * A program in the guest that stays, with its standard input and output: one session of a database, kept open over the
 * hold. The dead man of the hold (see dead-man.ts) kills it when this agent goes silent, and with it goes its lock.
 */
export interface HeldSession {
  /** In the guest. */
  readonly pid: number;
  /** One line to its standard input; `\n` is added. */
  send(line: string): Promise<void>;
  /**
   * Waits until what it wrote since the last call matches, and returns that text, up to the end of the match. Throws
   * `timed-out`, and `hook-failed` with its last words when it ended. Standard error is in the same text.
   */
  expect(pattern: RegExp, timeoutMs: number): Promise<string>;
  /** It still runs: its lock, if it had one, was never lost. */
  isOpen(): Promise<boolean>;
  /** Ends it. Idempotent; resolves when it is gone, so that what it held is released. */
  close(): Promise<void>;
}

export interface GuestSession {
  /** For messages and records: `guest-agent` or `ssh`. */
  readonly transport: 'guest-agent' | 'ssh';
  /**
   * Runs a program (no shell: give `['/bin/sh', '-c', …]` for one) and waits for its end, whatever its exit code. Throws
   * `guest-agent` or `host-unreachable` when the guest does not answer, `hook-blocked` when it forbids programs.
   */
  run(command: readonly string[], options: ProgramOptions): Promise<ProgramResult>;
  /** Starts a program that stays. To be called in `prepare`, before the dead man is armed, which then knows it. */
  open(command: readonly string[], options: ProgramOptions): Promise<HeldSession>;
}
