/** The guest agent of a libvirt domain: short calls by one virsh that waits for them, long ones by a virsh of their own. */
import { z } from 'zod';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { GuestAgent } from './guest-agent.js';
import type { Virsh } from './virsh.js';
import { VirshShell } from './virsh-shell.js';

const replySchema = z.object({ return: z.unknown() });
/** What the shell is given: no quotes, and far below what a terminal's line may have. */
const shellCharsMax = 1024;
/** Beside what the guest agent itself may take. */
const virshMs = 2000;

export class LibvirtGuestAgent implements GuestAgent {
  readonly #virsh: Virsh;
  readonly #vm: { readonly name: string; readonly uuid: string };
  readonly #shell: VirshShell;

  constructor(virsh: Virsh, vm: { readonly name: string; readonly uuid: string }) {
    this.#virsh = virsh;
    this.#vm = vm;
    this.#shell = new VirshShell(virsh);
  }

  get writtenMs(): number {
    return this.#shell.writtenMs;
  }

  get repliedMs(): number {
    return this.#shell.repliedMs;
  }

  async call(command: string, args: Readonly<Record<string, unknown>>, timeoutMs: number): Promise<unknown> {
    const request = JSON.stringify({
      execute: command,
      ...(Object.keys(args).length === 0 ? {} : { arguments: args }),
    });
    try {
      const text = await this.#send(request, timeoutMs);
      return replySchema.parse(JSON.parse(text)).return;
    } catch (cause) {
      if (isTidemarkError(cause, 'timed-out'))
        throw new TidemarkError(
          'timed-out',
          `The guest agent of ${this.#vm.name} took over ${timeoutMs} ms for ${command}.`,
        );
      const { message } = cause as Error;
      if (/(command|has been) (is )?(disabled|not allowed)|CommandNotFound|has not been found/i.test(message))
        throw new TidemarkError('hook-blocked', `The guest agent of ${this.#vm.name} refuses ${command}: ${message}`, {
          cause,
        });
      throw new TidemarkError('guest-agent', `The guest agent of ${this.#vm.name} fails ${command}: ${message}`, {
        cause,
      });
    }
  }

  async warm(): Promise<void> {
    this.#shell.open();
    await this.call('guest-ping', {}, 5000);
  }

  close(): void {
    this.#shell.close();
  }

  #send(request: string, timeoutMs: number): Promise<string> {
    const seconds = String(Math.max(1, Math.ceil(timeoutMs / 1000)));
    const isShort = request.length <= shellCharsMax && /^[\x20-\x7e]*$/.test(request) && !request.includes("'");
    if (isShort && this.#shell.isIdle)
      return this.#shell.run(`qemu-agent-command ${this.#vm.uuid} '${request}' --timeout ${seconds}`, timeoutMs);
    return this.#virsh.run(['qemu-agent-command', this.#vm.uuid, request, '--timeout', seconds], {
      timeoutMs: timeoutMs + virshMs,
    });
  }
}
