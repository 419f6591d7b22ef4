/**
 * The plans of failover, rollback and commit; a move (move.ts) ends with the steps of the failover.
 *
 * failover: checkpoint chosen and pinned → `epoch` (raised, holder target: sources are fenced) → `view` (production view)
 *   → the VMs boot (recovery/).
 * rollback: the VMs are gone → `kept` (scratch is a named point) → `epoch` (raised, granted to the source) → after a move:
 *   `source` (its VMs run again).
 * commit: every disk of the VMs mirrored → `committing` (the state; rollback is illegal from here) → `copied` (each disk in
 *   a file of its own, fsynced; the VMs run on the files)
 *   → `committed` (the state) → `closed` (the view is gone).
 */
import { TidemarkError } from '../core/errors.js';
import { isPlanted } from '../core/planted.js';
import { resolveCheckpoint, type CheckpointSelector } from './checkpoints.js';
import type { GroupContext } from './context.js';
import type { OperationPlan, OperationRecord, OperationResult, OperationStep } from './operations.js';
import { movePlan, startedAgain } from './move.js';
import { reversePlan } from './reverse-plan.js';
import { checkTransition, type GroupState, type TransitionAction } from './state-machine.js';
import type { TransitionHost } from './transition-host.js';

export interface FailoverArguments {
  readonly at: CheckpointSelector;
  /** Go on although no one confirmed that the source is stopped. */
  readonly sourceMayBeAlive: boolean;
  /** Refused with `illegal-state` when more would be lost. */
  readonly maxDataLossSeconds?: number | undefined;
}

export function transitionPlans(host: TransitionHost): Map<string, OperationPlan> {
  return new Map<string, OperationPlan>([
    [
      'failover',
      {
        ...always,
        prepare: (group, args, id) => prepareFailover(host, group, args as unknown as FailoverArguments, id),
        steps: failoverSteps(host),
      },
    ],
    ['move', movePlan(host, failoverSteps(host))],
    ['reverse', reversePlan(host)],
    ['rollback', { ...always, prepare: (group) => prepareOnView(group, 'rollback'), steps: rollbackSteps(host) }],
    [
      'commit',
      {
        ...always,
        prepare: async (group) => {
          const result = await prepareOnView(group, 'commit');
          const view = String(result['view']);
          if (host.machines?.enabled === true) return { ...result, ...(await host.machines.checkCommit(view)) };
          host.views.refuseBusy(view);
          return result;
        },
        steps: commitSteps(host),
      },
    ],
  ]);
}

const always = { mustFinish: true, exclusive: true } as const;

async function prepareFailover(
  host: TransitionHost,
  group: GroupContext,
  args: FailoverArguments,
  id: string,
): Promise<OperationResult> {
  checkTransition(group.name, group.manifest.state.state, 'failover');
  if (!args.sourceMayBeAlive && host.sourceConnected()) {
    throw new TidemarkError(
      'illegal-state',
      `The source of ${group.name} is connected: stop it, or say that it may be alive.`,
    );
  }
  const checkpoint = resolveCheckpoint(group.checkpoints(), args.at);
  const lossSeconds = Math.max(0, (group.sourceNowMs() - checkpoint.sourceTimeMs) / 1000);
  if (args.maxDataLossSeconds !== undefined && lossSeconds > args.maxDataLossSeconds) {
    throw new TidemarkError(
      'illegal-state',
      `${lossSeconds.toFixed(1)} s would be lost, more than maxDataLossSeconds ${args.maxDataLossSeconds}; nothing was changed.`,
    );
  }
  const machines = host.machines?.enabled === true ? await host.machines.checkFailover(checkpoint) : {};
  // Pinned in the same locked section as it was chosen: it cannot expire before the view holds it.
  await group.manifest.append({
    type: 'pin',
    id: `operation-${id}`,
    checkpoint: checkpoint.id,
    reason: 'failover',
    removed: false,
  });
  return { checkpoint: checkpoint.id, lossSeconds, ...machines };
}

function prepareOnView(group: GroupContext, action: TransitionAction): Promise<OperationResult> {
  const planted = action === 'rollback' && isPlanted('rollback-after-committing');
  if (!planted) checkTransition(group.name, group.manifest.state.state, action);
  const view = [...group.manifest.state.views.values()].find(({ purpose }) => purpose === 'production');
  if (view === undefined) throw new TidemarkError('view-unknown', `Group ${group.name} has no production view.`);
  return Promise.resolve({ view: view.id });
}

/** Raises the epoch for this operation, once: a second run finds its own record. */
async function raiseEpoch(
  group: GroupContext,
  record: OperationRecord,
  holder: 'source' | 'target',
  checkpoint?: string,
): Promise<OperationResult> {
  const reason = `${record.kind} ${record.id}`;
  const current = group.manifest.state.epochs.at(-1);
  if (current !== undefined && current.reason !== reason) {
    await group.manifest.append({
      type: 'epoch',
      epoch: current.epoch + 1,
      branch: Buffer.from(group.random.bytes(8)).toString('hex'),
      parentBranch: current.branch,
      ...(checkpoint === undefined ? {} : { checkpoint }),
      holder,
      reason,
      wallMs: group.clock.wallMs(),
    });
  }
  return { epoch: group.manifest.state.epochs.at(-1)?.epoch };
}

async function setState(group: GroupContext, state: GroupState): Promise<void> {
  if (group.manifest.state.state !== state) await group.manifest.append({ type: 'state', state });
}

function failoverSteps(host: TransitionHost): OperationStep[] {
  return [
    {
      name: 'epoch',
      run: async ({ group, record }) => {
        const raised = await raiseEpoch(group, record, 'target', String(record.result?.['checkpoint']));
        await setState(group, 'failed-over');
        host.fenceSources(`${record.kind} ${record.id}`);
        return raised;
      },
    },
    {
      name: 'view',
      run: async ({ group, record }) => {
        const view = `production-${record.id}`;
        const checkpoint = String(record.result?.['checkpoint']);
        const { scratchLimitBytes } = group.settings;
        await host.views.open({
          id: view,
          at: { by: 'id', checkpoint, allowIncomplete: true },
          purpose: 'production',
          scratchLimitBytes,
        });
        await group.manifest.append({
          type: 'pin',
          id: `operation-${record.id}`,
          checkpoint,
          reason: record.kind,
          removed: true,
        });
        return { view };
      },
    },
    ...(host.machines?.failoverSteps ?? []),
  ];
}

function rollbackSteps(host: TransitionHost): OperationStep[] {
  return [
    ...(host.machines?.rollbackSteps ?? []),
    {
      name: 'kept',
      run: async ({ record }) => {
        const { keepHours } = record.arguments as { keepHours?: number };
        await host.views.keep(String(record.result?.['view']), `rolled back by ${record.id}`, keepHours);
        return {};
      },
    },
    {
      name: 'epoch',
      run: async ({ group, record }) => {
        const raised = await raiseEpoch(group, record, 'source');
        await setState(group, 'protecting');
        return raised;
      },
    },
    startedAgain(host),
  ];
}

function commitSteps(host: TransitionHost): OperationStep[] {
  const { machines } = host;
  return [
    ...(machines?.commitSteps ?? []),
    { name: 'committing', run: ({ group }) => setState(group, 'committing').then(() => ({})) },
    {
      name: 'copied',
      background: machines !== undefined,
      run: async (step) => {
        const { record, progress, signal } = step;
        if (machines !== undefined && record.result?.['vms'] !== undefined) return machines.settle(step);
        return { files: await host.views.materialise(String(record.result?.['view']), progress, signal) };
      },
    },
    { name: 'committed', run: ({ group }) => setState(group, 'committed').then(() => ({})) },
    {
      name: 'closed',
      run: async ({ record }) => {
        await host.views.close(String(record.result?.['view']));
        return {};
      },
    },
  ];
}
