/** QMP of a libvirt domain through virsh: one process a command, events from the hypervisor's one event loop. */
import type { TidemarkError } from '../core/errors.js';
import { isTidemarkError, TidemarkError as Failure } from '../core/errors.js';
import { commandTimeoutMs, replySchema, resultOf, type Monitor, type MonitorEvent } from './monitor.js';
import type { Virsh } from './virsh.js';

/** Subscribes to the monitor events of one domain; returns how to stop. */
export type EventSource = (uuid: string, listener: (event: MonitorEvent) => void) => () => void;

export class LibvirtMonitor implements Monitor {
  readonly closed: Promise<string>;
  readonly #over = Promise.withResolvers<string>();
  readonly #stops = new Set<() => void>();
  readonly #virsh: Virsh;
  readonly #uuid: string;
  readonly #events: EventSource;
  #isClosed = false;

  constructor(virsh: Virsh, uuid: string, events: EventSource) {
    this.#virsh = virsh;
    this.#uuid = uuid;
    this.#events = events;
    this.closed = this.#over.promise;
  }

  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    timeoutMs: number = commandTimeoutMs,
  ): Promise<unknown> {
    if (this.#isClosed) throw new Failure('hypervisor-unreachable', 'The monitor was closed.');
    const request = JSON.stringify({ execute: command, arguments: args });
    let text: string;
    try {
      text = await this.#virsh.run(['qemu-monitor-command', this.#uuid, request], { timeoutMs });
    } catch (error) {
      if (isTidemarkError(error, 'hypervisor-failed') && isGone(error)) {
        const gone = new Failure('hypervisor-unreachable', error.message, { cause: error });
        this.#lose('the VM does not run');
        throw gone;
      }
      if (isTidemarkError(error, 'hypervisor-failed') && /failed to connect/i.test(error.message))
        throw new Failure('hypervisor-unreachable', error.message, { cause: error });
      throw error;
    }
    return resultOf(command, parseReply(command, text));
  }

  onEvent(listener: (event: MonitorEvent) => void): () => void {
    const stop = this.#events(this.#uuid, listener);
    this.#stops.add(stop);
    return () => {
      this.#stops.delete(stop);
      stop();
    };
  }

  close(): void {
    this.#lose('the monitor was closed');
  }

  #lose(reason: string): void {
    this.#isClosed = true;
    for (const stop of this.#stops) stop();
    this.#stops.clear();
    this.#over.resolve(reason);
  }
}

function isGone({ message }: TidemarkError): boolean {
  return /domain is not running|Domain not found|failed to get domain|no domain with matching/i.test(message);
}

function parseReply(command: string, text: string): ReturnType<typeof replySchema.parse> {
  try {
    return replySchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new Failure('hypervisor-failed', `QEMU answered ${command} with ${text.slice(0, 200)}`, { cause });
  }
}
