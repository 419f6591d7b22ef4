/**
 * Failover, rollback and commit as durable steps in the manifest. A step's record is written when the step is done; after
 * a kill the operation goes on behind its last record, and every step may be done twice.
 *
 * failover: `started` (checkpoint chosen, kept in the arguments) → `epoch` (raised, holder target: sources are fenced)
 *   → `view` (production view open) → `done`.
 * rollback: `started` → `kept` (scratch is a named point) → `epoch` (raised, granted to the source) → `done`.
 * commit: `started` → `committing` (the state; rollback is illegal from here) → `copied` (each disk in a file of its own,
 *   fsynced) → `committed` (the state) → `done`.
 */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { isPlanted } from '../core/planted.js';
import type { CheckpointSelector } from './checkpoints.js';
import { resolveCheckpoint } from './checkpoints.js';
import type { GroupContext } from './context.js';
import type { ManifestRecord } from './manifest-records.js';
import { checkTransition, type GroupState, type TransitionAction } from './state-machine.js';
import type { ViewRegistry } from './views.js';

export type OperationRecord = Extract<ManifestRecord, { type: 'operation' }>;

export interface FailoverArguments {
  readonly at: CheckpointSelector;
  /** Go on although no one confirmed that the source is stopped. */
  readonly sourceMayBeAlive: boolean;
  /** Refused with `illegal-state` when more would be lost. */
  readonly maxDataLossSeconds?: number | undefined;
}

/** What the steps need of the group besides the context. */
export interface OperationHost {
  /** Closes every session of the group, telling each the epoch now in force. */
  fenceSources(reason: string): void;
  readonly views: ViewRegistry;
  /** True while a source agent is connected. */
  sourceConnected(): boolean;
}

/** A transition runs under the group's lock only where it chooses; it is exclusive by {@link running}. */
export class Operations {
  private readonly active = new Map<string, Promise<OperationRecord>>();

  constructor(
    private readonly context: GroupContext,
    private readonly host: OperationHost,
  ) {}

  get running(): string | undefined {
    return this.active.keys().next().value;
  }

  failover(id: string, args: FailoverArguments): Promise<OperationRecord> {
    return this.start(id, 'failover', { ...args, at: { ...args.at } }, async () => {
      const { context } = this;
      if (!args.sourceMayBeAlive && this.host.sourceConnected()) {
        throw new TidemarkError(
          'illegal-state',
          `The source of ${context.name} is connected: stop it, or say that it may be alive.`,
        );
      }
      const checkpoint = resolveCheckpoint(context.checkpoints(), args.at);
      const lossSeconds = (context.sourceNowMs() - checkpoint.sourceTimeMs) / 1000;
      if (args.maxDataLossSeconds !== undefined && lossSeconds > args.maxDataLossSeconds) {
        throw new TidemarkError(
          'illegal-state',
          `${lossSeconds.toFixed(1)} s would be lost, more than maxDataLossSeconds ${args.maxDataLossSeconds}; nothing was changed.`,
        );
      }
      // Pinned before the choice is recorded, in the same locked section: it cannot expire meanwhile.
      await context.manifest.append({
        type: 'pin',
        id: `operation-${id}`,
        checkpoint: checkpoint.id,
        reason: 'failover',
        removed: false,
      });
      return { checkpoint: checkpoint.id, lossSeconds };
    });
  }

  rollback(id: string): Promise<OperationRecord> {
    return this.start(id, 'rollback', {}, () => Promise.resolve({ view: this.productionView() }));
  }

  commit(id: string): Promise<OperationRecord> {
    return this.start(id, 'commit', {}, () => {
      const view = this.productionView();
      this.host.views.refuseBusy(view);
      return Promise.resolve({ view });
    });
  }

  /** Goes on with every operation that a kill cut short. */
  async resume(): Promise<void> {
    for (const record of [...this.context.manifest.state.operations.values()]) {
      if (record.step !== 'done' && record.step !== 'failed' && record.kind in steps) await this.drive(record);
    }
  }

  private productionView(): string {
    const view = [...this.context.manifest.state.views.values()].find(({ purpose }) => purpose === 'production');
    if (view === undefined)
      throw new TidemarkError('view-unknown', `Group ${this.context.name} has no production view.`);
    return view.id;
  }

  /** The same id and arguments: the same operation. `prepare` chooses under the lock; its result is kept. */
  private async start(
    id: string,
    kind: TransitionAction,
    args: Record<string, unknown>,
    prepare: () => Promise<Record<string, unknown>>,
  ): Promise<OperationRecord> {
    const { context } = this;
    const running = this.active.get(id);
    if (running !== undefined) return running;
    const record = await context.lock.run(async () => {
      const known = context.manifest.state.operations.get(id);
      if (known !== undefined) {
        if (known.kind === kind && sameJson(known.arguments, args)) return known;
        throw new TidemarkError('operation-conflict', `Operation ${id} was a ${known.kind} with other arguments.`);
      }
      if (this.running !== undefined)
        throw new TidemarkError('operation-running', `Operation ${this.running} holds ${context.name}.`);
      const planted = kind === 'rollback' && isPlanted('rollback-after-committing');
      if (!planted) checkTransition(context.name, context.manifest.state.state, kind);
      const result = await prepare();
      return this.record({ id, kind, step: 'started', arguments: args, result });
    });
    if (record.step === 'done' || record.step === 'failed') return record;
    return this.drive(record);
  }

  private drive(record: OperationRecord): Promise<OperationRecord> {
    const known = this.active.get(record.id);
    if (known !== undefined) return known;
    const run = this.runSteps(record).finally(() => this.active.delete(record.id));
    this.active.set(record.id, run);
    return run;
  }

  private async runSteps(record: OperationRecord): Promise<OperationRecord> {
    const plan = steps[record.kind as TransitionAction];
    let current = record;
    for (const [name, run] of plan.slice(plan.findIndex(([step]) => step === record.step) + 1)) {
      try {
        const result = await run(this.context, this.host, current);
        current = await this.record({ ...current, step: name, result: { ...current.result, ...result } });
      } catch (error) {
        if (isTidemarkError(error) && error.retry)
          this.context.events.emit('operation-waits', {
            group: this.context.name,
            operation: record.id,
            step: name,
            error: error.message,
          });
        throw error;
      }
    }
    this.context.events.emit('operation-done', { group: this.context.name, operation: record.id, kind: record.kind });
    return current;
  }

  private async record(fields: Omit<OperationRecord, 'type' | 'wallMs'>): Promise<OperationRecord> {
    const record: OperationRecord = { ...fields, type: 'operation', wallMs: this.context.clock.wallMs() };
    await this.context.manifest.append(record);
    return record;
  }
}

function sameJson(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

type Step = readonly [
  name: string,
  run: (context: GroupContext, host: OperationHost, record: OperationRecord) => Promise<Record<string, unknown>>,
];

/** Raises the epoch for this operation, once: a second run finds its own record. */
async function raiseEpoch(
  context: GroupContext,
  record: OperationRecord,
  holder: 'source' | 'target',
  checkpoint?: string,
): Promise<Record<string, unknown>> {
  const reason = `${record.kind} ${record.id}`;
  const current = context.manifest.state.epochs.at(-1);
  if (current !== undefined && current.reason !== reason) {
    await context.manifest.append({
      type: 'epoch',
      epoch: current.epoch + 1,
      branch: Buffer.from(context.random.bytes(8)).toString('hex'),
      parentBranch: current.branch,
      ...(checkpoint === undefined ? {} : { checkpoint }),
      holder,
      reason,
      wallMs: context.clock.wallMs(),
    });
  }
  return { epoch: context.manifest.state.epochs.at(-1)?.epoch };
}

async function setState(context: GroupContext, state: GroupState): Promise<Record<string, unknown>> {
  if (context.manifest.state.state !== state) await context.manifest.append({ type: 'state', state });
  return {};
}

const steps: Record<TransitionAction, readonly Step[]> = {
  failover: [
    [
      'epoch',
      async (context, host, record) => {
        const raised = await raiseEpoch(context, record, 'target', String(record.result?.['checkpoint']));
        await setState(context, 'failed-over');
        host.fenceSources(`failover ${record.id}`);
        return raised;
      },
    ],
    [
      'view',
      async (context, host, record) => {
        const view = `production-${record.id}`;
        const at = { by: 'id', id: String(record.result?.['checkpoint']) } as const;
        await host.views.open({
          id: view,
          at,
          purpose: 'production',
          scratchLimitBytes: context.settings.scratchLimitBytes,
        });
        await context.manifest.append({
          type: 'pin',
          id: `operation-${record.id}`,
          checkpoint: at.id,
          reason: 'failover',
          removed: true,
        });
        return { view };
      },
    ],
    ['done', () => Promise.resolve({})],
  ],
  rollback: [
    [
      'kept',
      async (_context, host, record) => {
        await host.views.keep(String(record.result?.['view']), `rolled back by ${record.id}`);
        return {};
      },
    ],
    [
      'epoch',
      async (context, _host, record) => {
        const raised = await raiseEpoch(context, record, 'source');
        await setState(context, 'protecting');
        return raised;
      },
    ],
    ['done', () => Promise.resolve({})],
  ],
  commit: [
    ['committing', (context) => setState(context, 'committing')],
    [
      'copied',
      async (_context, host, record) => ({ files: await host.views.materialise(String(record.result?.['view'])) }),
    ],
    ['committed', (context) => setState(context, 'committed')],
    [
      'done',
      async (_context, host, record) => {
        await host.views.close(String(record.result?.['view']));
        return {};
      },
    ],
  ],
};
