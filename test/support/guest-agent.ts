/** Programs inside a guest, run by its QEMU guest agent through libvirt. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Virsh } from '../../agent/src/hypervisor/virsh.js';

interface ExecStatus {
  readonly exited: boolean;
  readonly exitcode?: number;
  readonly 'out-data'?: string;
  readonly 'err-data'?: string;
}

const pollMs = 200;

/** What the program printed. Throws when it does not end with 0 within `timeoutMs` (default 60 s). */
export async function guestExec(
  virsh: Virsh,
  domain: string,
  command: readonly string[],
  { timeoutMs = 60_000 } = {},
): Promise<string> {
  const [path = '', ...arg] = command;
  const untilMs = performance.now() + timeoutMs;
  const started = await call<{ pid: number }>(virsh, domain, 'guest-exec', { path, arg, 'capture-output': true });
  for (;;) {
    const status = await call<ExecStatus>(virsh, domain, 'guest-exec-status', { pid: started.pid });
    if (status.exited) {
      const [output, errors] = [status['out-data'], status['err-data']].map((data) =>
        Buffer.from(data ?? '', 'base64').toString('utf8'),
      );
      if (status.exitcode === 0) return output!;
      throw new Error(`${domain}: ${command.join(' ')} ended with ${status.exitcode}: ${errors}${output}`);
    }
    if (performance.now() > untilMs) throw new Error(`${domain}: ${path} took over ${timeoutMs / 1000} s`);
    await sleep(pollMs);
  }
}

async function call<Answer>(virsh: Virsh, domain: string, execute: string, args: object): Promise<Answer> {
  const request = JSON.stringify({ execute, arguments: args });
  const text = await virsh.run(['qemu-agent-command', domain, request, '--timeout', '10']);
  return (JSON.parse(text) as { return: Answer }).return;
}
