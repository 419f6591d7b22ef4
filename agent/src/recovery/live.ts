/**
 * The live VMs of a group: booted by a failover or a move, gone by a rollback, made permanent by a commit, looked after in between.
 *
 * failover: → `defined` → `booting` (the first wave is started) → `booted` (all waves, ready) → `ready` (or it failed).
 * boot: the steps of the failover again, for what does not run or was not ready.
 * rollback: → `stopped` (no VM is left on the view).
 */
import { TidemarkError } from '../core/errors.js';
import type { Timer } from '../core/clock.js';
import type { DrillScope, GroupMachines } from '../target/machines.js';
import type { Checkpoint } from '../target/manifest-records.js';
import type { OperationPlan, OperationResult, OperationStep, StepContext } from '../target/operations.js';
import { commitSteps, checkCommit, settleCommit } from './commit.js';
import type { Drills } from './drills.js';
import { failedChecks, firstBootMs } from './evidence.js';
import { operationOf, type Room } from './room.js';
import { Tending } from './tend.js';
import { viewDisks } from './view-disks.js';
import type { BootReport, VmPlan } from './vm-set.js';

const tendMs = 2000;

export class LiveMachines implements GroupMachines {
  readonly plans: ReadonlyMap<string, OperationPlan>;
  readonly failoverSteps: readonly OperationStep[];
  readonly rollbackSteps: readonly OperationStep[];
  readonly commitSteps: readonly OperationStep[];
  private readonly upkeep: Tending;
  private timer: Timer | undefined;
  private tending: Promise<void> = Promise.resolve();

  constructor(
    private readonly room: Room,
    private readonly drills: Drills,
  ) {
    this.upkeep = new Tending(room, drills);
    this.failoverSteps = bootSteps(room);
    const boot: OperationPlan = {
      mustFinish: false,
      exclusive: true,
      prepare: () => this.prepareBoot(),
      steps: this.failoverSteps,
    };
    this.plans = new Map([...drills.plans(), ['boot', boot]]);
    this.rollbackSteps = [
      { name: 'stopped', background: true, run: ({ record }) => this.stopAll(String(record.result?.['view'])) },
    ];
    this.commitSteps = commitSteps(room);
  }

  get enabled(): boolean {
    return this.room.enabled;
  }

  async checkFailover(checkpoint: Checkpoint): Promise<OperationResult> {
    const disk = this.room.futureDisk(checkpoint, 'production');
    return { ...(await this.room.vms.check({ operation: 'check', purpose: 'live', checkpoint, disk })) };
  }

  checkDrill(checkpoint: Checkpoint, asked: DrillScope): Promise<OperationResult> {
    return this.drills.check(checkpoint, asked, 'check');
  }

  checkCommit(view: string): Promise<OperationResult> {
    return checkCommit(this.room, view);
  }

  settle(context: StepContext): Promise<OperationResult> {
    return settleCommit(this.room, context);
  }

  start(): void {
    const { clock } = this.room.group.context;
    const round = (): void => {
      this.tending = this.upkeep.round().then(() => {
        if (!this.room.stopping.signal.aborted) this.timer = clock.after(tendMs, round);
      });
    };
    round();
  }

  async stop(): Promise<void> {
    this.room.stopping.abort(new TidemarkError('shutting-down', 'The agent is stopping.'));
    this.timer?.cancel();
    await this.tending;
  }

  /** As the failover recorded it, whose name is in the view's. */
  private async prepareBoot(): Promise<OperationResult> {
    const { name, context, views } = this.room.group;
    const view = [...context.manifest.state.views.values()].find(({ purpose }) => purpose === 'production');
    if (context.manifest.state.state !== 'failed-over' || view === undefined)
      throw new TidemarkError('illegal-state', `Group ${name} is not failed over: there is nothing to boot.`);
    const operation = operationOf(view.id);
    const checkpoint = this.room.checkpoint(view.checkpoint);
    const disk = viewDisks(views, this.room.exports, view.id);
    const checked = await this.room.vms.check({ operation, purpose: 'live', checkpoint, disk });
    return { checkpoint: view.checkpoint, view: view.id, operation, ...checked };
  }

  private async stopAll(view: string): Promise<OperationResult> {
    if (!this.enabled) return {};
    await this.room.vms.remove(({ purpose }) => purpose === 'live');
    // Also those of VMs that were never defined.
    await this.room.vms.removeFiles(operationOf(view));
    return {};
  }
}

/** From where the time to the first boot counts: a move's wait for its source is told apart. */
function sinceMsOf({ record }: StepContext): number {
  const since = record.result?.['recoverySinceMs'];
  return typeof since === 'number' ? since : record.startedMs;
}

function bootSteps(room: Room): OperationStep[] {
  const planOf = ({ record }: StepContext): VmPlan => ({
    operation: String(record.result?.['operation'] ?? record.id),
    purpose: 'live',
    checkpoint: room.checkpoint(record.result?.['checkpoint']),
    disk: viewDisks(room.group.views, room.exports, String(record.result?.['view'])),
  });
  const step = (name: string, run: (context: StepContext) => Promise<OperationResult>): OperationStep => ({
    name,
    background: true,
    mayFail: true,
    // A failover of disks alone has recorded no VMs.
    run: (context) => (context.record.result?.['vms'] === undefined ? Promise.resolve({}) : run(context)),
  });
  return [
    step('defined', async (context) => {
      await room.vms.define(planOf(context));
      return {};
    }),
    step('booting', async (context) => {
      await room.environment.serving;
      const sinceMs = sinceMsOf(context);
      const throughWave = room.vms.firstWave();
      const boots = await room.vms.boot(planOf(context), { sinceMs, throughWave, signal: room.signal(context.signal) });
      return { firstBootMs: firstBootMs(boots) };
    }),
    step('booted', async (context) => {
      await room.environment.serving;
      const sinceMs = sinceMsOf(context);
      const boots = await room.vms.boot(planOf(context), { sinceMs, signal: room.signal(context.signal) });
      return { boots, readyMs: Math.max(0, ...boots.map(({ readyAfterMs }) => readyAfterMs ?? 0)) };
    }),
    step('ready', ({ record }) => {
      const failed = failedChecks(record.result?.['boots'] as BootReport[]);
      if (failed !== undefined) throw new TidemarkError('vm-not-ready', failed);
      return Promise.resolve({});
    }),
  ];
}
