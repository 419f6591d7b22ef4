/** QMP over a monitor's unix socket: greeting, capabilities, replies matched by id, events. Connecting again is the caller's. */
import { connect, type Socket } from 'node:net';
import { z } from 'zod';
import type { Clock, Timer } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import {
  commandTimeoutMs,
  eventSchema,
  replySchema,
  resultOf,
  type Monitor,
  type MonitorEvent,
  type Reply,
} from './monitor.js';

/** One line of QEMU; query-block of hundreds of disks is far below. */
const lineBytesMax = 16 * 1024 * 1024;
/** Commands without a reply; more are refused. */
const waitingCountMax = 256;
const connectMs = 5000;

const greetingSchema = z.object({ QMP: z.object({ version: z.unknown() }) });

interface Waiting {
  readonly command: string;
  readonly timer: Timer;
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
}

export class QmpSocket implements Monitor {
  readonly closed: Promise<string>;
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #path: string;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Set<(event: MonitorEvent) => void>();
  readonly #greeted = Promise.withResolvers<void>();
  readonly #over = Promise.withResolvers<string>();
  #pieces: Buffer[] = [];
  #pieceBytes = 0;
  #lastId = 0;
  #greeting = true;
  #reason: string | undefined;

  private constructor(path: string, clock: Clock) {
    this.#path = path;
    this.#clock = clock;
    this.closed = this.#over.promise;
    this.#greeted.promise.catch(() => undefined);
    this.#socket = connect({ path });
    this.#socket.on('data', (chunk) => this.#receive(chunk));
    this.#socket.on('error', (error) => this.#lose(error.message));
    this.#socket.on('close', () => this.#lose('QEMU closed the monitor'));
  }

  /** Throws `hypervisor-unreachable`, also when another client holds the monitor (QEMU serves one at a time). */
  static async open(path: string, clock: Clock): Promise<QmpSocket> {
    const monitor = new QmpSocket(path, clock);
    const timer = clock.after(connectMs, () => monitor.#lose('no greeting; another client may hold the monitor'));
    try {
      await monitor.#greeted.promise;
      await monitor.execute('qmp_capabilities');
    } catch (error) {
      monitor.close();
      throw error;
    } finally {
      timer.cancel();
    }
    return monitor;
  }

  execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    timeoutMs: number = commandTimeoutMs,
  ): Promise<unknown> {
    if (this.#reason !== undefined) return Promise.reject(this.#unreachable());
    if (this.#waiting.size >= waitingCountMax)
      return Promise.reject(new TidemarkError('overloaded', `Too many commands wait at the monitor ${this.#path}.`));
    const id = ++this.#lastId;
    const reply = new Promise<Reply>((resolve, reject) => {
      const timer = this.#clock.after(timeoutMs, () => {
        this.#waiting.delete(id);
        reject(new TidemarkError('timed-out', `QEMU did not answer ${command} within ${timeoutMs} ms.`));
      });
      this.#waiting.set(id, { command, timer, resolve, reject });
    });
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return reply.then((value) => resultOf(command, value));
  }

  onEvent(listener: (event: MonitorEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    this.#lose('the monitor was closed');
  }

  #receive(chunk: Buffer): void {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      this.#pieces.push(chunk.subarray(start, end));
      start = end + 1;
      const line = Buffer.concat(this.#pieces).toString('utf8').trim();
      this.#pieces = [];
      this.#pieceBytes = 0;
      if (line !== '' && this.#reason === undefined) this.#line(line);
    }
    if (start < chunk.length) this.#pieces.push(chunk.subarray(start));
    this.#pieceBytes += chunk.length - start;
    if (this.#pieceBytes > lineBytesMax) this.#lose('a line that is too long');
  }

  #line(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      this.#lose('a line that is no JSON');
      return;
    }
    if (this.#greeting) {
      this.#greeting = false;
      if (greetingSchema.safeParse(message).success) this.#greeted.resolve();
      else this.#lose('no QMP greeting');
      return;
    }
    const event = eventSchema.safeParse(message);
    if (event.success) {
      for (const listener of [...this.#listeners]) listener({ name: event.data.event, data: event.data.data });
      return;
    }
    const reply = replySchema.safeParse(message);
    if (reply.success) this.#reply(reply.data);
    else this.#lose('neither a reply nor an event');
  }

  /** A reply to a command that was given up is dropped. */
  #reply(reply: Reply): void {
    const waiting = this.#waiting.get(reply.id as number);
    if (waiting === undefined) return;
    this.#waiting.delete(reply.id as number);
    waiting.timer.cancel();
    waiting.resolve(reply);
  }

  #lose(reason: string): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#socket.destroy();
    this.#greeted.reject(this.#unreachable());
    for (const { timer, reject } of this.#waiting.values()) {
      timer.cancel();
      reject(this.#unreachable());
    }
    this.#waiting.clear();
    this.#over.resolve(reason);
  }

  #unreachable(): TidemarkError {
    return new TidemarkError('hypervisor-unreachable', `Monitor ${this.#path}: ${this.#reason ?? ''}`);
  }
}
