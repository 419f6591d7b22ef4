/** Programs inside a guest, through its agent. */
import { sleep, type Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { RecoveryDriver } from './driver.js';

export interface Guest {
  readonly driver: RecoveryDriver;
  readonly uuid: string;
  readonly clock: Clock;
}

export interface GuestResult {
  readonly exitCode: number;
  readonly output: string;
}

const callTimeoutMs = 5000;
const pollMs = 200;
/** Of a program's output so much is kept. */
const outputCharsMax = 4096;

/** True when the guest agent answers. */
export async function guestAnswers({ driver, uuid }: Guest): Promise<boolean> {
  try {
    await driver.agent(uuid, 'guest-ping', {}, callTimeoutMs);
    return true;
  } catch (error) {
    if (error instanceof TidemarkError) return false;
    throw error;
  }
}

/** Runs the program and waits for its end; `timed-out` after `timeoutMs`. Throws `guest-agent`. */
export async function runInGuest(
  guest: Guest,
  command: readonly string[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<GuestResult> {
  const { driver, uuid, clock } = guest;
  const [path = '', ...arg] = command;
  const untilMs = clock.monotonicMs() + timeoutMs;
  const started = (await driver.agent(uuid, 'guest-exec', { path, arg, 'capture-output': true }, callTimeoutMs)) as {
    pid?: unknown;
  } | null;
  for (;;) {
    const status = (await driver.agent(uuid, 'guest-exec-status', { pid: started?.pid }, callTimeoutMs)) as Partial<
      Record<string, unknown>
    > | null;
    if (status?.['exited'] === true) {
      const text = [status['out-data'], status['err-data']]
        .map((data) => (typeof data === 'string' ? Buffer.from(data, 'base64').toString('utf8') : ''))
        .join('');
      return { exitCode: Number(status['exitcode'] ?? 128), output: text.slice(-outputCharsMax) };
    }
    if (clock.monotonicMs() > untilMs)
      throw new TidemarkError('timed-out', `${path} in the guest took over ${Math.round(timeoutMs / 1000)} s.`);
    await sleep(clock, pollMs, signal);
  }
}
