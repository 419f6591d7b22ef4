/** This machine as the guest: programs of a hook really run. */
import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { TidemarkError } from '../../agent/src/core/errors.js';
import type { GuestSession, HeldSession, ProgramOptions, ProgramResult } from '../../agent/src/hooks/guest-session.js';
import { openHeldSession } from '../../agent/src/hooks/held-session.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';

export class LocalGuest implements GuestSession {
  readonly transport = 'guest-agent';
  readonly sessions: HeldSession[] = [];

  async run(command: readonly string[], { input, environment, timeoutMs }: ProgramOptions): Promise<ProgramResult> {
    const [program = '', ...args] = command;
    const env = { PATH: process.env['PATH'], ...environment };
    const child = spawn(program, args, { env, timeout: timeoutMs, killSignal: 'SIGKILL' });
    child.stdin.on('error', () => undefined);
    child.stdin.end(input ?? '');
    const ended = new Promise<number>((resolve) => child.once('close', (code) => resolve(code ?? 137)));
    const [stdout, stderr, exitCode] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
    if (child.killed) throw new TidemarkError('timed-out', `${program} took over ${timeoutMs} ms and was killed.`);
    return { exitCode, stdout, stderr };
  }

  async open(command: readonly string[], options: ProgramOptions): Promise<HeldSession> {
    const session = await openHeldSession(this, nodeClock, command, options);
    this.sessions.push(session);
    return session;
  }
}
