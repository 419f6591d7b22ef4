/** Answers what an operation or a policy would do, from what the group is now; changes nothing. */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { toApiError, type ApiError } from '../service/error-schema.js';
import type { ActionForecast, Forecast, ForecastRequest, PolicyForecast } from '../service/forecast-schemas.js';
import type { TargetGroupSpec } from '../service/group-spec.js';
import type { OperationKind } from '../service/operation-schemas.js';
import { resolveCheckpoint } from '../target/checkpoints.js';
import type { TargetGroup } from '../target/group.js';
import type { Checkpoint } from '../target/manifest-records.js';
import { checkpointsToKeep } from '../target/retention.js';
import { retentionOf } from '../target/settings.js';
import { checkTransition, legalActions, transitions, type TransitionAction } from '../target/state-machine.js';
import { targetCheckpoint } from './target-status.js';
import { settingsOf } from './target-settings.js';

const dayMs = 86_400_000;
/** Actions that take a checkpoint. */
const recoveries: readonly OperationKind[] = ['failover', 'move', 'drill'];

export async function forecastOf(group: TargetGroup, request: ForecastRequest): Promise<Forecast> {
  return {
    group: group.name,
    epoch: group.context.manifest.state.epochs.at(-1)?.epoch ?? 0,
    policyRevision: group.context.settings.policyRevision,
    action: request.action === undefined ? null : await actionForecast(group, request.action, request),
    policy: request.spec === undefined ? null : policyForecast(group, request.spec),
  };
}

async function actionForecast(
  group: TargetGroup,
  action: OperationKind,
  request: ForecastRequest,
): Promise<ActionForecast> {
  const { context } = group;
  const { state } = context.manifest;
  const refusals: ApiError[] = [];
  const attempt = async <Value>(what: () => Value | Promise<Value>): Promise<Value | undefined> => {
    try {
      return await what();
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      refusals.push(toApiError(error));
      return undefined;
    }
  };
  if (isTransition(action)) await attempt(() => checkTransition(group.name, state.state, action));
  const legal = refusals.length === 0;
  const recovers = recoveries.includes(action);
  const checkpoint = recovers ? await attempt(() => resolveCheckpoint(context.checkpoints(), request.at)) : undefined;
  const lossSeconds =
    checkpoint === undefined
      ? null
      : action === 'move'
        ? 0
        : Math.max(0, (context.sourceNowMs() - checkpoint.sourceTimeMs) / 1000);
  if (action === 'move' && legal) await attempt(() => group.checkMove());
  if (action === 'failover' && legal) await attempt(() => checkFailover(group, request, lossSeconds));
  if (checkpoint !== undefined && legal && action === 'failover' && group.machines?.enabled === true)
    await attempt(() => group.machines?.checkFailover(checkpoint));
  if (checkpoint !== undefined && action === 'drill')
    await attempt(() => group.machines?.checkDrill(checkpoint, request));
  const measured = measuredSeconds(group);
  return {
    action,
    legal,
    legalActions: legalActions(state.state),
    known: request.operation !== undefined && state.operations.has(request.operation),
    refusals,
    checkpoint: checkpoint === undefined ? null : targetCheckpoint(group, checkpoint),
    lossSeconds,
    vms: recovers ? vmForecasts(group, action, request, lossSeconds ?? 0) : [],
    readySeconds: measured.length === 0 ? null : measured[Math.floor(measured.length / 2)]!,
    measuredCount: measured.length,
    scratchLimitBytes: context.settings.scratchLimitBytes,
    scratchFullSeconds: secondsToWrite(group, context.settings.scratchLimitBytes),
  };
}

function isTransition(action: OperationKind): action is TransitionAction {
  return Object.hasOwn(transitions, action);
}

function checkFailover(group: TargetGroup, request: ForecastRequest, lossSeconds: number | null): void {
  if (!request.sourceMayBeAlive && group.connectedStreams.length > 0)
    throw new TidemarkError(
      'illegal-state',
      `The source of ${group.name} is connected: stop it, or say that it may be alive.`,
      { path: 'sourceMayBeAlive' },
    );
  const { maxDataLossSeconds } = request;
  if (maxDataLossSeconds !== undefined && lossSeconds !== null && lossSeconds > maxDataLossSeconds)
    throw new TidemarkError(
      'illegal-state',
      `${lossSeconds.toFixed(1)} s would be lost, more than maxDataLossSeconds ${maxDataLossSeconds}.`,
      { path: 'maxDataLossSeconds' },
    );
}

function vmForecasts(
  group: TargetGroup,
  action: OperationKind,
  { vms: only, checks = [] }: ForecastRequest,
  lossSeconds: number,
): ActionForecast['vms'] {
  const { recovery } = group.context.settings;
  if (recovery === null) return [];
  const drill = action === 'drill';
  return recovery.vms
    .filter(({ vm }) => only?.includes(vm) !== false)
    .map(({ vm, wave, delaySeconds, networks, addresses, readiness }) => ({
      vm,
      wave,
      delaySeconds,
      lossSeconds,
      networks: networks.map(({ from, live, test }) => ({ from, to: drill ? (test ?? recovery.testNetwork) : live })),
      addresses: addresses.map(({ nic, live, test }) => ({ nic, to: drill ? test : live })),
      checks: [...readiness, ...checks.filter((asked) => drill && asked.vm === vm).map(({ check }) => check)],
    }))
    .sort((a, b) => a.wave - b.wave);
}

/** From the request to the last VM being ready, of every recovery that got there; ascending. */
function measuredSeconds(group: TargetGroup): number[] {
  return [...group.context.manifest.state.operations.values()]
    .flatMap(({ result }) => {
      const boots = (result?.['boots'] ?? []) as readonly { readonly readyAfterMs: number | null }[];
      const times = boots.map(({ readyAfterMs }) => readyAfterMs);
      return times.length === 0 || times.includes(null) ? [] : [Math.max(...(times as number[])) / 1000];
    })
    .sort((a, b) => a - b);
}

function bytesPerSecond(group: TargetGroup): number {
  return group.sessionList().reduce((sum, session) => sum + session.bytesPerSecond(), 0);
}

function secondsToWrite(group: TargetGroup, bytes: number): number | null {
  const rate = bytesPerSecond(group);
  return rate > 0 ? bytes / rate : null;
}

function policyForecast(group: TargetGroup, spec: TargetGroupSpec): PolicyForecast {
  const { context } = group;
  const { owner, policyRevision } = context.settings;
  const settings = settingsOf(spec, { owner, policyRevision });
  const checkpoints = context.checkpoints();
  const kept = checkpointsToKeep(checkpoints, retentionOf(settings), context.sourceNowMs(), context.pinned());
  const oldest = (list: readonly Checkpoint[]): number | null =>
    list.find(({ complete }) => complete)?.sourceTimeMs ?? null;
  return {
    changes: JSON.stringify(settings) !== JSON.stringify(context.settings),
    refusals: policyRefusals(group, spec),
    checkpointCount: checkpoints.length,
    keptCount: kept.size,
    oldestMs: oldest(checkpoints),
    oldestKeptMs: oldest(checkpoints.filter(({ id }) => kept.has(id))),
    journalBytes: context.journal.usage.bytes,
    hardLimitBytes: settings.hardLimitBytes,
    bytesPerDay: bytesPerSecond(group) * (dayMs / 1000),
    historySecondsAtLimit: secondsToWrite(group, settings.hardLimitBytes),
  };
}

/** What a group that exists never changes. */
function policyRefusals(group: TargetGroup, spec: TargetGroupSpec): ApiError[] {
  const streams = [...group.context.manifest.state.streams.values()];
  if (JSON.stringify(streams) === JSON.stringify(spec.streams)) return [];
  const message = `Group ${group.name} exists with the streams ${streams.join(', ')}; they cannot change.`;
  return [toApiError(new TidemarkError('group-exists', message, { path: 'streams' }))];
}
