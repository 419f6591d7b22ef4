/**
 * move: the planned failover. Until `undone` every step says what went wrong in its result, durably, instead of failing:
 * a kill in the middle of the way back must never find a way forward again.
 *
 * checked (nothing touched) → `source` (every source agent's VMs are off, what they wrote is durable here) → `arrived` (the
 * last checkpoint is complete, pinned, and nothing but marks is behind it) → `undone` (only after a failure: the source VMs run
 * again, and the move has failed) → the steps of a failover.
 */
import { sleep } from '../core/clock.js';
import { isTidemarkError, TidemarkError, type ErrorCode } from '../core/errors.js';
import type { StopArguments } from '../service/operation-schemas.js';
import type { GroupContext } from './context.js';
import { resolveCheckpoint } from './checkpoints.js';
import type { Checkpoint } from './manifest-records.js';
import type { OperationPlan, OperationRecord, OperationResult, OperationStep, StepContext } from './operations.js';
import type { SourcePeers, SourceStop } from './source-peers.js';
import { checkTransition } from './state-machine.js';
import type { TransitionHost } from './transition-host.js';

const arriveMs = 60_000;
const barrierTries = 10;
const barrierAgainMs = 500;

export function movePlan(host: TransitionHost, failoverSteps: readonly OperationStep[]): OperationPlan {
  return {
    mustFinish: true,
    exclusive: true,
    prepare: (group) => prepareMove(host, group),
    steps: [
      before('source', host, (context) => stopSources(host, context)),
      before('arrived', host, (context) => arrived(host, context)),
      { name: 'undone', background: true, mayFail: true, run: (context) => undo(host, context) },
      ...failoverSteps,
    ],
  };
}

/** All that can be refused before a source VM is touched. */
export async function prepareMove(host: TransitionHost, group: GroupContext): Promise<OperationResult> {
  checkTransition(group.name, group.manifest.state.state, 'move');
  for (const source of streamsOf(group)) peersOf(host, group).check(source);
  const away = host.sourcesAway();
  if (away.length > 0)
    throw new TidemarkError(
      'illegal-state',
      `${away.join(', ')} is not connected: a move needs the source; without it there is only the failover.`,
    );
  const checkpoint = resolveCheckpoint(group.checkpoints(), { by: 'latest' });
  return checkMachines(host, checkpoint);
}

async function checkMachines(host: TransitionHost, checkpoint: Checkpoint): Promise<OperationResult> {
  return host.machines?.enabled === true ? await host.machines.checkFailover(checkpoint) : {};
}

/** A step whose failure is a result; it does nothing when one before it has failed. */
function before(
  name: string,
  host: TransitionHost,
  run: (context: StepContext) => Promise<OperationResult>,
): OperationStep {
  return {
    name,
    background: true,
    mayFail: true,
    run: async (context) => {
      if (failureOf(context.record) !== undefined) return {};
      try {
        return await run({ ...context, signal: AbortSignal.any([context.signal, host.closing]) });
      } catch (error) {
        if (!isTidemarkError(error) || host.closing.aborted) throw error;
        // `shutting-down` would be taken for the end of this agent.
        const code: ErrorCode = error.code === 'shutting-down' ? 'source-interrupted' : error.code;
        return { failure: { code, message: error.message } };
      }
    },
  };
}

async function stopSources(host: TransitionHost, context: StepContext): Promise<OperationResult> {
  const { group, record, signal } = context;
  const { timeoutSeconds, force, sourceStopped, drainSeconds } = record.arguments as unknown as StopArguments;
  const bytes = new Map<string, readonly [number, number]>();
  const order = shutdownOrder(group);
  const ends = await Promise.allSettled(
    streamsOf(group).map(async (source): Promise<[string, SourceStop]> => {
      const end = await peersOf(host, group).stop(
        source,
        {
          ...{ id: sourceId(record), group: group.name, signal },
          arguments: { timeoutSeconds, force, sourceStopped, drainSeconds, order },
        },
        (doneBytes, totalBytes) => {
          bytes.set(source, [doneBytes, totalBytes]);
          const all = [...bytes.values()];
          context.progress(
            all.reduce((sum, [done]) => sum + done, 0),
            all.reduce((sum, [, total]) => sum + total, 0),
          );
        },
      );
      return [source, end];
    }),
  );
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  return { sources: Object.fromEntries(ends.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []))) };
}

async function arrived(host: TransitionHost, context: StepContext): Promise<OperationResult> {
  const { group, record } = context;
  const stops = record.result?.['sources'] as Readonly<Record<string, SourceStop>>;
  const id = Object.values(stops)[0]?.checkpoint ?? (await takeBarrier(host, context));
  const found = await host.waitForCheckpoint(id, arriveMs);
  await group.journal.flush();
  await group.lock.run(async () => {
    checkArrival(group, found, stops);
    const id = `operation-${record.id}`;
    await group.manifest.append({ type: 'pin', id, checkpoint: found.id, reason: 'move', removed: false });
  });
  const recoverySinceMs = group.clock.wallMs();
  const sourceStopMs = recoverySinceMs - record.startedMs;
  return {
    ...{ checkpoint: found.id, lossSeconds: 0, sourceStopMs, recoverySinceMs },
    ...(await checkMachines(host, found)),
  };
}

/** Several source agents: all have stopped, so any barrier holds all. */
async function takeBarrier(host: TransitionHost, { record, signal, group }: StepContext): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await host.takeBarrier(`move ${record.id}`.slice(0, 128));
    } catch (error) {
      if (!isTidemarkError(error, 'barrier-broken') || attempt === barrierTries) throw error;
      await sleep(group.clock, barrierAgainMs, signal);
    }
  }
}

/** Every source's last sequence is in the checkpoint, and nothing but marks came after it. */
function checkArrival(group: GroupContext, checkpoint: Checkpoint, stops: Readonly<Record<string, SourceStop>>): void {
  const { journal, manifest, name } = group;
  if (!checkpoint.complete)
    throw new TidemarkError('checkpoint-incomplete', `The last checkpoint of ${name} misses a disk.`);
  const marks = journal.marks();
  for (const [stream, source] of manifest.state.streams) {
    const [stop, last, durable] = [stops[source], checkpoint.vector[stream], journal.durable[stream]];
    const isIn = stop !== undefined && last?.incarnation === stop.incarnation && last.sequence >= stop.sequence;
    if (!isIn) throw new TidemarkError('gap', `What ${source} wrote last to ${name} is not in its last checkpoint.`);
    const marksBehind = marks.filter(
      (mark) => mark.stream === stream && mark.incarnation === last.incarnation && mark.sequence > last.sequence,
    ).length;
    const quiet = durable?.incarnation === last.incarnation && durable.sequence - last.sequence === marksBehind;
    if (!quiet) throw new TidemarkError('source-running', `${source} sent more of ${name} after its last checkpoint.`);
  }
}

/** After a failure the source VMs run again, and the move fails with it. */
async function undo(host: TransitionHost, context: StepContext): Promise<OperationResult> {
  const { group, record } = context;
  const failure = failureOf(record);
  if (failure === undefined) return {};
  const stop = sourceId(record);
  const trouble = await startSources(host, group, stop, `${stop}-again`);
  const pin = `operation-${record.id}`;
  const pinned = group.manifest.state.pins.get(pin);
  if (pinned !== undefined) await group.manifest.append({ ...pinned, removed: true });
  const back =
    trouble.length === 0
      ? 'The source goes on.'
      : `The source VMs may be off (${trouble.join('; ')}): ${byHand(group, stop)}, or fail over.`;
  throw new TidemarkError(failure.code, `${failure.message} ${back}`);
}

/** Of a rollback: the source VMs that a move had shut down run again. What cannot be started is told, not a failure. */
export function startedAgain(host: TransitionHost): OperationStep {
  return {
    name: 'source',
    background: true,
    run: async ({ group, record }) => {
      const moved = [...group.manifest.state.operations.values()].find(
        ({ kind, id }) => kind === 'move' && `production-${id}` === record.result?.['view'],
      );
      if (moved === undefined) return {};
      const stop = sourceId(moved);
      const trouble = await startSources(host, group, stop, `${record.id}-source`);
      if (trouble.length === 0) return { sourceStarted: true };
      return { sourceStarted: false, sourceTrouble: `${trouble.join('; ')}: ${byHand(group, stop)}` };
    },
  };
}

/** Resolves with what went wrong. */
async function startSources(host: TransitionHost, group: GroupContext, stop: string, id: string): Promise<string[]> {
  const outcomes = await Promise.allSettled(
    streamsOf(group).map((source) =>
      peersOf(host, group).start(source, { id, group: group.name, stop, signal: host.closing }),
    ),
  );
  if (host.closing.aborted) throw new TidemarkError('shutting-down', 'The group is being closed.');
  return outcomes.flatMap((outcome) => {
    if (outcome.status === 'fulfilled') return [];
    if (!isTidemarkError(outcome.reason)) throw outcome.reason;
    return [outcome.reason.message];
  });
}

function byHand({ name }: GroupContext, stop: string): string {
  return `start them there with \`tidemark group start-vms ${name} --stop ${stop}\``;
}

/** Reverse boot order. */
function shutdownOrder({ settings }: GroupContext): string[][] {
  const vms = settings.recovery?.vms ?? [];
  const waves = [...new Set(vms.map(({ wave }) => wave))].sort((a, b) => b - a);
  return waves.map((wave) => vms.filter((each) => each.wave === wave).map(({ vm }) => vm));
}

function streamsOf(group: GroupContext): string[] {
  return [...group.manifest.state.streams.values()];
}

function peersOf({ sources }: TransitionHost, group: GroupContext): SourcePeers {
  if (sources !== undefined) return sources;
  throw new TidemarkError('illegal-state', `The sources of ${group.name} cannot be asked here.`);
}

/** Of the operation at the source. */
export function sourceId({ id }: Pick<OperationRecord, 'id'>): string {
  return `${id}-source`;
}

function failureOf(record: OperationRecord): { readonly code: ErrorCode; readonly message: string } | undefined {
  return record.result?.['failure'] as { code: ErrorCode; message: string } | undefined;
}
