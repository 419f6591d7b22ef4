/**
 * The guard: a process beside the agent that lets guests go when the agent hangs (`tidemark agent guard`, started by the
 * agent and by nobody else).
 *
 * It holds a duplicate of every connection to a mirror export. The thread that answers guests reports every 100 ms how
 * old its oldest unanswered write is. When that age, with the time since the report, passes `letGoMs`:
 *
 * 1. shutdown(2) of all duplicates: the hypervisor sees the end of the stream, fails the mirror, the guest goes on;
 * 2. a durable let-go record and one line of the log, each in a bounded time (the disk may be what hangs);
 * 3. SIGKILL of the agent;
 * 4. the duplicates are read empty until their clients have closed, for one that is blocked in sending to an agent that
 *    cannot die; then the end.
 *
 * The end of the channel means that the agent is gone, or nearly so: everything is closed at once, and an agent that is
 * still there after `lingerMs` (a thread of its pool hangs in the kernel, exit waits for it) is killed.
 * Signals are ignored: a service manager may send them to the whole group, and the agent drains under this guard.
 */
import { constants, setPriority } from 'node:os';
import { createLogger } from '../control/logger.js';
import { LogWriter } from '../control/log-writer.js';
import type { Clock } from '../core/clock.js';
import { sleep } from '../core/clock.js';
import { nodeClock } from '../platform/node-clock.js';
import { NodeStorage } from '../platform/node-storage.js';
import { Duplicates } from './duplicates.js';
import { writeLetGo, type LetGo } from './let-go.js';
import type { ToAgent, ToGuard } from './messages.js';
import { SilenceWatch, type Silence } from './silence.js';

const lookMs = 50;
/** The most that one look counts. */
const lookMsMax = 150;
const recordMs = 250;
const drainMs = 2_000;
const lingerMs = 3_000;
const logMs = 100;

type Start = ToGuard & { kind: 'start' };

/** Runs until the agent has ended; never returns. */
export function runGuardProcess(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
  try {
    // It has next to nothing to do, but must do it in time.
    setPriority(constants.priority.PRIORITY_HIGH);
  } catch {
    // Not allowed: as good as any other process.
  }
  const guard = new Guard(nodeClock);
  process.on('message', (message: ToGuard, handle: unknown) => guard.receive(message, handle));
  process.on('disconnect', () => guard.disconnected());
  if (!process.connected) process.exit(2);
}

class Guard {
  readonly #duplicates = new Duplicates();
  readonly #log = new LogWriter(2);
  #start: Start | undefined;
  #watch: SilenceWatch | undefined;
  #ending = false;

  constructor(private readonly clock: Clock) {}

  receive(message: ToGuard, handle: unknown): void {
    if (message.kind === 'start') this.#start = message;
    else if (message.kind === 'hold') this.#duplicates.hold(message.number, message.group, message.exportName, handle);
    else if (message.kind === 'drop') this.#duplicates.drop(message.number);
    else if (message.kind === 'stand-down') this.#watch = undefined;
    else this.#reported(message);
  }

  disconnected(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#duplicates.close();
    void this.#outliveAgent();
  }

  #reported({ number, oldestMs }: ToGuard & { kind: 'report' }): void {
    process.send?.({ kind: 'seen', number } satisfies ToAgent, () => undefined);
    const nowMs = this.clock.monotonicMs();
    if (this.#watch === undefined) {
      this.#watch = new SilenceWatch(lookMsMax, nowMs);
      this.#lookLater();
    }
    this.#watch.reported(oldestMs, nowMs);
  }

  #lookLater(): void {
    // A report that has arrived is read before the look: setImmediate runs after the channel was served.
    this.clock.after(lookMs, () => setImmediate(() => this.#look()));
  }

  #look(): void {
    const { letGoMs } = this.#start ?? {};
    if (this.#watch === undefined || this.#ending || letGoMs === undefined) return;
    const silence = this.#watch.look(this.clock.monotonicMs());
    if (silence.ageMs > letGoMs) void this.#letGo(silence);
    else this.#lookLater();
  }

  async #letGo(silence: Silence): Promise<void> {
    this.#ending = true;
    const { agentPid, directory, logFields } = this.#start!;
    const letGo: LetGo = {
      version: 1,
      wallMs: this.clock.wallMs(),
      reason: silence.sinceReportMs > silence.reportedMs ? 'silent' : 'unanswered',
      ...silence,
      agentPid,
      groups: this.#duplicates.groups,
      connectionCount: this.#duplicates.count,
    };
    const startMs = this.clock.monotonicMs();
    await this.#within(recordMs, this.#duplicates.shutDown());
    const shutDownMs = this.clock.monotonicMs() - startMs;
    const written = writeLetGo(new NodeStorage(), directory, letGo).then(
      () => 'durable',
      (error: Error) => error.message,
    );
    const record = (await this.#within(recordMs, written)) ?? 'the disk did not answer in time';
    const { version: _version, wallMs: _wallMs, ...fields } = letGo;
    createLogger({ level: 'info', fields: logFields, destination: this.#log }).error(
      { event: 'let-go', ...fields, shutDownMs, record },
      'the agent hung: its clients were let go, the agent is killed',
    );
    // Before the kill: a service manager may end the guard with the agent.
    await this.#log.flush(logMs);
    this.#killAgent();
    this.#duplicates.drain();
    await this.#until(drainMs, () => this.#duplicates.count === 0 && !this.#agentIsThere());
    this.#duplicates.close();
    await this.#end();
  }

  async #outliveAgent(): Promise<void> {
    await this.#until(lingerMs, () => !this.#agentIsThere());
    this.#killAgent();
    await this.#end();
  }

  /** A dead agent's child has another parent. */
  #agentIsThere(): boolean {
    return this.#start !== undefined && process.ppid === this.#start.agentPid;
  }

  #killAgent(): void {
    if (this.#agentIsThere()) process.kill(process.ppid, 'SIGKILL');
  }

  /** By SIGKILL: exit would wait for a thread that writes to a disk or a log that hangs. */
  async #end(): Promise<void> {
    await this.#log.flush(logMs);
    process.kill(process.pid, 'SIGKILL');
  }

  /** The promise's value; undefined after `timeoutMs`. */
  #within<Value>(timeoutMs: number, promise: Promise<Value>): Promise<Value | undefined> {
    return new Promise((resolve, reject) => {
      const timer = this.clock.after(timeoutMs, () => resolve(undefined));
      promise.then(resolve, reject).finally(() => timer.cancel());
    });
  }

  async #until(timeoutMs: number, done: () => boolean): Promise<void> {
    const endMs = this.clock.monotonicMs() + timeoutMs;
    while (!done() && this.clock.monotonicMs() < endMs) await sleep(this.clock, lookMs);
  }
}
