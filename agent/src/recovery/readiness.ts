/** Is a booted VM ready? Each check is tried until it holds or its time is over. */
import { connect } from 'node:net';
import { sleep, type Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { Readiness } from '../service/recovery-spec.js';
import { guestAnswers, runInGuest, type Guest } from './guest.js';

export interface CheckResult {
  readonly check: string;
  readonly ok: boolean;
  /** From its first try to its end. */
  readonly tookMs: number;
  /** What the last try said. */
  readonly detail: string;
}

const tryTimeoutMs = 10_000;
const againMs = 500;

/** `isolated`: this host has no way to the guest's network, so everything is asked from inside. */
export async function runCheck(
  guest: Guest,
  check: Readiness,
  { isolated, signal }: { isolated: boolean; signal: AbortSignal },
): Promise<CheckResult> {
  const { clock } = guest;
  const startedMs = clock.monotonicMs();
  const done = (ok: boolean, detail: string): CheckResult => ({
    check: nameOf(check),
    ok,
    tookMs: Math.round(clock.monotonicMs() - startedMs),
    detail: detail.trim().slice(0, 1000),
  });
  for (;;) {
    let detail: string;
    try {
      const problem = await attempt(guest, check, isolated, signal);
      if (problem === undefined) return done(true, '');
      detail = problem;
    } catch (error) {
      if (!(error instanceof TidemarkError) || signal.aborted) throw error;
      detail = error.message;
    }
    if (clock.monotonicMs() - startedMs > check.timeoutSeconds * 1000) return done(false, detail);
    await sleep(clock, againMs, signal);
  }
}

export function nameOf(check: Readiness): string {
  switch (check.kind) {
    case 'guest-agent':
      return 'guest-agent';
    case 'tcp':
      return `tcp ${check.host}:${check.port}`;
    case 'http':
      return `http ${check.url}`;
    case 'command':
      return `command ${check.command.join(' ')}`;
  }
}

/** Undefined when it holds, else why not. */
async function attempt(
  guest: Guest,
  check: Readiness,
  isolated: boolean,
  signal: AbortSignal,
): Promise<string | undefined> {
  switch (check.kind) {
    case 'guest-agent':
      return (await guestAnswers(guest)) ? undefined : 'the guest agent does not answer';
    case 'command':
      return inside(guest, check.command, check.timeoutSeconds * 1000, signal);
    case 'tcp':
      if (isolated || isLoopback(check.host))
        return inside(guest, tcpCommand(check.host, check.port), tryTimeoutMs, signal);
      return tcpFromHere(check.host, check.port);
    case 'http':
      if (isolated || isLoopback(new URL(check.url).hostname))
        return inside(guest, httpCommand(check.url), tryTimeoutMs, signal);
      return httpFromHere(check.url, guest.clock);
  }
}

async function inside(
  guest: Guest,
  command: readonly string[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { exitCode, output } = await runInGuest(guest, command, timeoutMs, signal);
  return exitCode === 0 ? undefined : `it ended with ${exitCode}: ${output}`;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host === '[::1]' || host.startsWith('127.');
}

/** With what a small guest has: nc, or bash. */
function tcpCommand(host: string, port: number): string[] {
  const script =
    'if command -v nc >/dev/null; then exec nc -z -w 5 "$1" "$2"; fi; exec timeout 5 bash -c \': </dev/tcp/"$0"/"$1"\' "$1" "$2"';
  return ['/bin/sh', '-c', script, 'tcp', host, String(port)];
}

function httpCommand(url: string): string[] {
  const script =
    'if command -v curl >/dev/null; then exec curl -fsS -m 8 -o /dev/null "$1"; fi; exec wget -q -T 8 -O /dev/null "$1"';
  return ['/bin/sh', '-c', script, 'http', url];
}

function tcpFromHere(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: tryTimeoutMs });
    const end = (problem: string | undefined): void => {
      socket.destroy();
      resolve(problem);
    };
    socket.once('connect', () => end(undefined));
    socket.once('timeout', () => end('no answer'));
    socket.once('error', (error) => end(error.message));
  });
}

async function httpFromHere(url: string, clock: Clock): Promise<string | undefined> {
  const abort = new AbortController();
  const timer = clock.after(tryTimeoutMs, () => abort.abort(new Error('no answer')));
  try {
    const response = await fetch(url, { redirect: 'manual', signal: abort.signal });
    await response.body?.cancel();
    return response.status >= 200 && response.status < 400 ? undefined : `it answered ${response.status}`;
  } catch (error) {
    return (error as Error).message;
  } finally {
    timer.cancel();
  }
}
