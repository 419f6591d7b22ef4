/**
 * The agent's side of the guard: starts it, gives it a duplicate of every guarded connection, reports every 100 ms, and
 * starts another when it died or does not answer. Without a guard everything goes on, with an alert.
 */
import { spawn, type ChildProcess, type SendHandle } from 'node:child_process';
import type { Clock, Timer } from '../core/clock.js';
import type { EventSink } from '../core/events.js';
import { ownCommand } from '../core/own-command.js';
import type { GuardedConnection } from '../nbd/connection.js';
import { reportMs, type ToAgent, type ToGuard } from './messages.js';

/** Reports without an answer: over the first none is sent, over the second the guard is ended and replaced. */
const unseenQuietCount = 5;
const unseenCountMax = 50;
/** Before a new guard is started: doubled with each that did not live for `soundMs`. */
const restartMsMin = 100;
const restartMsMax = 10_000;
const soundMs = 60_000;

export interface GuardKeeperOptions {
  readonly letGoMs: number;
  /** Of let-go records. */
  readonly directory: string;
  readonly logFields: Readonly<Record<string, string>>;
  readonly clock: Clock;
  readonly events: EventSink;
  /** Age of the oldest guarded write that is not answered. */
  readonly oldestMs: () => number;
}

interface Held {
  readonly group: string;
  readonly exportName: string;
  readonly handle: SendHandle;
}

export class GuardKeeper {
  readonly #o: GuardKeeperOptions;
  readonly #held = new Map<number, Held>();
  #lastNumber = 0;
  #wanted = false;
  #child: ChildProcess | undefined;
  #startedMs = 0;
  #restartMs = restartMsMin;
  #unseenCount = 0;
  #reportNumber = 0;
  #timer: Timer | undefined;
  restartCount = 0;

  constructor(options: GuardKeeperOptions) {
    this.#o = options;
  }

  /** The guard's process; undefined while there is none. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get connectionCount(): number {
    return this.#held.size;
  }

  /** There are exports to guard. Idempotent. */
  start(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#startGuard();
    this.#tick();
  }

  hold({ group, exportName, plain, socket }: GuardedConnection): void {
    const { _handle: handle } = plain as unknown as { _handle: SendHandle | null };
    if (handle === null) return;
    const number = ++this.#lastNumber;
    const held = { group, exportName, handle };
    this.#held.set(number, held);
    socket.once('close', () => {
      this.#held.delete(number);
      this.#send({ kind: 'drop', number });
    });
    this.#give(number, held);
  }

  /** The agent ends in order. The guard ends after it. */
  close(): void {
    this.#wanted = false;
    this.#timer?.cancel();
    this.#send({ kind: 'stand-down' });
    this.#child?.unref();
    this.#child?.channel?.unref();
  }

  #startGuard(): void {
    const { letGoMs, directory, logFields, clock } = this.#o;
    const { file, args, env } = ownCommand('agent', 'guard');
    const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'], env });
    this.#child = child;
    this.#startedMs = clock.monotonicMs();
    this.#unseenCount = 0;
    let lost = false;
    const onLost = (why: string): void => {
      if (!lost) this.#lost(why);
      lost = true;
    };
    child.on('error', (error) => onLost(error.message));
    child.on('exit', (code, signal) => onLost(String(signal ?? code)));
    child.on('message', ({ number }: ToAgent) => (this.#unseenCount = this.#reportNumber - number));
    this.#send({ kind: 'start', agentPid: process.pid, letGoMs, directory, logFields });
    for (const [number, held] of this.#held) this.#give(number, held);
  }

  #give(number: number, { group, exportName, handle }: Held): void {
    this.#send({ kind: 'hold', number, group, exportName }, handle);
  }

  /** What cannot be sent is lost with the guard, or was closed meanwhile. */
  #send(message: ToGuard, handle?: SendHandle): void {
    if (this.#child?.connected === true) this.#child.send(message, handle, () => undefined);
  }

  #tick(): void {
    this.#timer = this.#o.clock.after(reportMs, () => this.#tick());
    if (this.#child === undefined) return;
    if (this.#unseenCount > unseenCountMax) {
      this.#child.kill('SIGKILL');
      return;
    }
    this.#unseenCount++;
    if (this.#unseenCount > unseenQuietCount) return;
    this.#send({ kind: 'report', number: ++this.#reportNumber, oldestMs: this.#o.oldestMs() });
  }

  #lost(why: string): void {
    const { clock, events } = this.#o;
    const livedMs = clock.monotonicMs() - this.#startedMs;
    this.#child = undefined;
    if (!this.#wanted) return;
    this.#restartMs = livedMs > soundMs ? restartMsMin : Math.min(restartMsMax, this.#restartMs * 2);
    this.restartCount++;
    events.emit('guard-lost', { why, livedMs: Math.round(livedMs), againMs: this.#restartMs });
    clock.after(this.#restartMs, () => {
      if (!this.#wanted) return;
      this.#startGuard();
      events.emit('guard-restarted', { connections: this.#held.size });
    });
  }
}
