/** A guest without a machine: a guest agent that keeps its state as the real one does, a dead man, and hooks of its own. */
import { TidemarkError } from '../../agent/src/core/errors.js';
import type { GuestSession, HeldSession, ProgramResult } from '../../agent/src/hooks/guest-session.js';
import type { HookedGuest } from '../../agent/src/hooks/held-vm.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import type { GuestAgent } from '../../agent/src/hypervisor/guest-agent.js';

/** `frozen` until a thaw was called, whoever thawed; then it refuses all else. */
export class FreezingAgent implements GuestAgent {
  state: 'thawed' | 'frozen' = 'thawed';
  /** File systems that are frozen in the guest. */
  frozen = 0;
  readonly calls: string[] = [];
  writtenMs = 0;
  repliedMs = 0;
  /** Commands that fail, each so many times. */
  readonly failures = new Map<string, number>();

  call(command: string): Promise<unknown> {
    this.calls.push(command);
    const left = this.failures.get(command) ?? 0;
    if (left > 0) {
      this.failures.set(command, left - 1);
      return Promise.reject(new TidemarkError('guest-agent', `${command} fails`));
    }
    if (command === 'guest-fsfreeze-status') return Promise.resolve(this.state);
    if (command === 'guest-fsfreeze-freeze' && this.state === 'thawed') {
      this.state = 'frozen';
      this.frozen = 3;
      return Promise.resolve(3);
    }
    if (command !== 'guest-fsfreeze-thaw')
      return Promise.reject(new TidemarkError('guest-agent', `${command} while ${this.state}`));
    const count = this.frozen;
    this.frozen = 0;
    this.state = 'thawed';
    return Promise.resolve(count);
  }

  warm(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    this.calls.push('close');
  }
}

/** Runs what the hold itself runs: sync, and the dead man. */
export class FreezingGuest implements GuestSession, HookedGuest {
  readonly transport = 'guest-agent';
  readonly agent = new FreezingAgent();
  readonly settings = [hookSettingsSchema.parse({ kind: 'fsfreeze', quiesceSeconds: 0.5, prepareSeconds: 1 })];
  readonly guest = this;
  deadMan: 'none' | 'armed' | 'fired' = 'none';

  constructor(
    readonly vm: string,
    readonly tier: number,
    /** What happened, of all guests. */
    readonly log: string[] = [],
  ) {
    const { agent } = this;
    const call = agent.call.bind(agent);
    agent.call = (command) => {
      this.log.push(`${this.vm} ${command.replace('guest-fsfreeze-', '')}`);
      return call(command);
    };
  }

  run(command: readonly string[]): Promise<ProgramResult> {
    if (this.agent.state === 'frozen')
      return Promise.reject(new TidemarkError('guest-agent', 'guest-exec while frozen'));
    const answer = (stdout: string, exitCode = 0): Promise<ProgramResult> =>
      Promise.resolve({ exitCode, stdout, stderr: exitCode === 0 ? '' : 'nobody is there' });
    const mode = ['arm', 'cancel', 'end'].find((word) => command.includes(word));
    if (mode === undefined) return answer('0\n');
    this.log.push(`${this.vm} ${mode}`);
    const was = this.deadMan;
    this.deadMan = mode === 'arm' ? 'armed' : 'none';
    if (mode === 'arm') return answer('armed 77\n');
    if (mode === 'end') return answer(`ended ${was === 'none' ? 0 : 1}\n`);
    return was === 'none' ? answer('', 1) : answer(was === 'fired' ? 'fired\n' : 'unfired\n');
  }

  open(): Promise<HeldSession> {
    return Promise.reject(new Error('no sessions here'));
  }

  unprotected(): Promise<[]> {
    return Promise.resolve([]);
  }

  close(): void {
    this.agent.close();
  }

  /** The dead man lets go. */
  fire(): void {
    this.deadMan = 'fired';
    this.agent.frozen = 0;
  }
}
