/** A guest reached by its guest agent: `guest-exec`, and sessions held open by files in memory of the guest. */
import { z } from 'zod';
import { sleep, type Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { GuestAgent } from '../hypervisor/guest-agent.js';
import type { GuestSession, HeldSession, ProgramOptions, ProgramResult } from './guest-session.js';
import { openHeldSession } from './held-session.js';

const startedSchema = z.object({ pid: z.number().int().positive() });
const base64 = z.string().optional();
const statusSchema = z.object({
  exited: z.boolean(),
  exitcode: z.number().int().optional(),
  signal: z.number().int().optional(),
  'out-data': base64,
  'err-data': base64,
});

const callMs = 5000;
const pollMsMin = 5;
const pollMsMax = 100;
/** `guest-exec` replaces the environment when it is given one. */
const path = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export class GuestAgentSession implements GuestSession {
  readonly transport = 'guest-agent';

  constructor(
    private readonly agent: GuestAgent,
    private readonly clock: Clock,
  ) {}

  async run(command: readonly string[], { input, environment, timeoutMs }: ProgramOptions): Promise<ProgramResult> {
    const untilMs = this.clock.monotonicMs() + timeoutMs;
    const [program = '', ...arg] = command;
    const request = {
      ...{ path: program, arg, 'capture-output': true },
      ...(input === undefined ? {} : { 'input-data': Buffer.from(input).toString('base64') }),
      ...(environment === undefined
        ? {}
        : { env: [path, ...Object.entries(environment).map(([name, value]) => `${name}=${value}`)] }),
    };
    const { pid } = this.#parse(
      startedSchema,
      await this.agent.call('guest-exec', request, Math.min(callMs, timeoutMs)),
    );
    for (let waitMs = pollMsMin; ; waitMs = Math.min(pollMsMax, waitMs * 2)) {
      const status = this.#parse(statusSchema, await this.agent.call('guest-exec-status', { pid }, callMs));
      if (status.exited) {
        return {
          exitCode: status.exitcode ?? 128 + (status.signal ?? 0),
          stdout: textOf(status['out-data']),
          stderr: textOf(status['err-data']),
        };
      }
      if (this.clock.monotonicMs() >= untilMs) break;
      await sleep(this.clock, waitMs);
    }
    await this.agent.call('guest-exec', { path: '/bin/kill', arg: ['-KILL', String(pid)] }, callMs);
    throw new TidemarkError(
      'timed-out',
      `${program} in the guest took over ${Math.round(timeoutMs)} ms and was killed.`,
    );
  }

  open(command: readonly string[], options: ProgramOptions): Promise<HeldSession> {
    return openHeldSession(this, this.clock, command, options);
  }

  #parse<Schema extends z.ZodType>(schema: Schema, value: unknown): z.infer<Schema> {
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    throw new TidemarkError('guest-agent', `The guest agent answers ${JSON.stringify(value).slice(0, 200)}.`);
  }
}

function textOf(data: string | undefined): string {
  return Buffer.from(data ?? '', 'base64').toString('utf8');
}
