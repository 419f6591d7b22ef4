/** One `stop-vms`: wave after wave, then the last checkpoint; or its way back. See source-stops.ts. */
import type { SourceGroup } from '../capture/source-group.js';
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { toApiError, type ApiError } from '../service/error-schema.js';
import type { Operation, StopArguments } from '../service/operation-schemas.js';
import { placeFinalMark } from './final-mark.js';
import type { StoppedVm, StopRecord } from './stop-records.js';
import type { VmPower } from './vm-power.js';

export interface StopRunHost {
  readonly clock: Clock;
  readonly events: EventSink;
  readonly power: VmPower;
  isClosing(): boolean;
  source(group: string): SourceGroup | undefined;
  /** Durable when it resolves. */
  save(
    record: StopRecord,
    change: Partial<Omit<StopRecord, 'operation'>> & { readonly operation?: Partial<Operation> },
  ): Promise<StopRecord>;
  /** For who watches; not durable. */
  show(operation: Operation): void;
}

/** Ends with the record ended; rejects when the agent stops, or the record cannot be written. */
export async function driveStop(host: StopRunHost, record: StopRecord, signal: AbortSignal): Promise<void> {
  let now = record;
  try {
    for (const [index, wave] of record.waves.entries()) {
      const step = `shutting down ${wave.map(({ name }) => name).join(', ')}`;
      now = await host.save(now, { askedCount: index + 1, operation: { step } });
      await stopWave(host, now, wave, signal);
    }
    now = await host.save(now, { operation: { step: 'draining' } });
    const result = await mark(host, now, signal);
    signal.throwIfAborted();
    await host.save(now, { operation: finished(host.clock, 'succeeded', result, null) });
  } catch (error) {
    if (!isTidemarkError(error) || host.isClosing()) throw error;
    await abandonStop(host, now, error, signal);
    return;
  }
  const { id, group } = now.operation;
  host.events.emit('source-vms-stopped', { group, operation: id, vms: namesOf(now.waves.flat()) });
}

/** Starts what was asked to shut down, once it is off: a guest that heard the request goes down in its own time. */
export async function abandonStop(
  host: StopRunHost,
  record: StopRecord,
  error: TidemarkError,
  signal: AbortSignal,
): Promise<void> {
  const { clock, power, events } = host;
  const { id, group, arguments: args } = record.operation;
  const asked = record.waves.slice(0, record.askedCount).flat();
  // One that had its time already may hear it never.
  const graceMs = error.code === 'vm-not-stopped' ? 0 : (args as StopArguments).timeoutSeconds * 1000;
  const untilMs = clock.monotonicMs() + graceMs;
  await Promise.all(asked.map((vm) => power.awaitOff(vm, untilMs)));
  if (host.isClosing()) throw error;
  const { failed } = await power.start(asked);
  if (host.isClosing()) throw error;
  const back =
    asked.length === 0
      ? 'No VM was touched.'
      : failed.length === 0
        ? 'Those that were off were started again.'
        : `Not started again: ${failed.join('; ')}.`;
  const told = new TidemarkError(error.code, `${error.message} ${back}`);
  const state = signal.aborted ? 'cancelled' : 'failed';
  await host.save(record, { operation: finished(clock, state, { notStarted: failed }, toApiError(told)) });
  events.emit('source-vms-started', { group, operation: id, started: namesOf(asked), failed, reason: error.message });
}

/** The last state of an operation. */
export function finished(
  clock: Clock,
  state: 'succeeded' | 'failed' | 'cancelled',
  result: Record<string, unknown>,
  error: ApiError | null,
): Partial<Operation> {
  const step = state === 'succeeded' ? 'done' : state;
  return { state, step, progress: null, finishedMs: clock.wallMs(), result, error };
}

async function stopWave(
  { power }: StopRunHost,
  { operation }: StopRecord,
  wave: readonly StoppedVm[],
  signal: AbortSignal,
): Promise<void> {
  const { timeoutSeconds, force } = operation.arguments as StopArguments;
  const ends = await Promise.allSettled(
    wave.map((vm) => power.stop(vm, timeoutSeconds * 1000, force === 'stop', signal)),
  );
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}

async function mark(host: StopRunHost, record: StopRecord, signal: AbortSignal): Promise<Record<string, unknown>> {
  const { id, group: name, arguments: args } = record.operation;
  const group = host.source(name);
  if (group === undefined || record.target === null)
    throw new TidemarkError('group-unknown', `This agent has no source group ${name}.`);
  let at = { doneBytes: 0, totalBytes: 0 };
  const sinceMs = host.clock.monotonicMs();
  const end = await placeFinalMark(group, record.target, {
    clock: host.clock,
    label: `stop ${id}`.slice(0, 128),
    drainMs: (args as StopArguments).drainSeconds * 1000,
    signal,
    onProgress: (doneBytes, totalBytes) => {
      if (doneBytes === at.doneBytes && totalBytes === at.totalBytes) return;
      at = { doneBytes, totalBytes };
      const seconds = (host.clock.monotonicMs() - sinceMs) / 1000;
      const bytesPerSecond = seconds > 0 ? doneBytes / seconds : 0;
      const secondsLeft = bytesPerSecond > 0 ? (totalBytes - doneBytes) / bytesPerSecond : null;
      host.show({ ...record.operation, progress: { ...at, bytesPerSecond, secondsLeft } });
    },
  });
  return { ...end, stopped: namesOf(record.waves.flat()) };
}

function namesOf(vms: readonly StoppedVm[]): string[] {
  return vms.map(({ name }) => name);
}
