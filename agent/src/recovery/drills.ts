/**
 * Drills: the VMs of a checkpoint boot on a view of their own in a network that leads nowhere, are checked, and are gone
 * again; protection goes on meanwhile, and several drills run at once.
 *
 * drill: checkpoint chosen and pinned → `view` → `defined` (network and VMs; nothing boots before every network is proven
 *   to lead nowhere) → `booting` → `booted` (evidence)
 *   → `kept` (or torn down at once) → `judged` (failed when a check was).
 * drill-stop: → `torn-down`.
 *
 * The view's record is what makes a drill stand: it goes last. Whatever carries the mark of a drill that does not stand
 * is removed by the next sweep, so that a kill at any step leaves nothing behind.
 */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { resolveCheckpoint, type CheckpointSelector } from '../target/checkpoints.js';
import {
  hasEnded,
  type OperationPlan,
  type OperationRecord,
  type OperationResult,
  type OperationStep,
  type StepContext,
} from '../target/operations.js';
import type { DrillScope } from '../target/machines.js';
import { failedChecks, firstBootMs, proveNetworks } from './evidence.js';
import type { Checkpoint } from '../target/manifest-records.js';
import type { Room } from './room.js';
import { viewDisks } from './view-disks.js';
import { shortHash, type BootReport, type VmPlan } from './vm-set.js';

interface DrillArguments extends DrillScope {
  readonly at: CheckpointSelector;
  readonly keepMinutes: number;
  readonly maxDurationMinutes?: number;
  readonly scratchLimitBytes?: number;
}

const minuteMs = 60_000;

export class Drills {
  constructor(private readonly room: Room) {}

  plans(): [string, OperationPlan][] {
    const quick = { mustFinish: false, exclusive: false } as const;
    return [
      [
        'drill',
        {
          ...quick,
          prepare: (_group, args, id) => this.prepare(args as unknown as DrillArguments, id),
          steps: this.steps(),
        },
      ],
      [
        'drill-stop',
        {
          ...quick,
          prepare: (_group, args) => {
            this.find(String(args['drill']));
            return Promise.resolve({});
          },
          steps: [
            { name: 'torn-down', background: true, run: ({ record }) => this.stop(String(record.arguments['drill'])) },
          ],
        },
      ],
    ];
  }

  /** Ends what has outlived its time, and what a crash left behind. */
  async sweep(): Promise<void> {
    const { operations } = this.room.group.context.manifest.state;
    const nowMs = this.room.group.context.clock.wallMs();
    const running = new Set(this.room.group.operations.running().map(({ record }) => record.id));
    for (const record of [...operations.values()]) {
      if (record.kind !== 'drill' || !hasEnded(record) || running.has(record.id) || !this.stands(record.id)) continue;
      const until = record.result?.['keepUntilMs'];
      if (typeof until === 'number' && nowMs < until) continue;
      await this.tearDown(record.id);
      this.room.group.context.events.emit('drill-ended', { group: this.room.group.name, drill: record.id });
    }
    await this.sweepLeftovers();
  }

  private async sweepLeftovers(): Promise<void> {
    const { vms, group } = this.room;
    const left = await vms.owned(({ purpose, operation }) => purpose === 'drill' && !this.stands(operation));
    for (const operation of new Set(left.map(({ mark }) => mark.operation))) await this.tearDown(operation);
    const standing = new Set(
      [...group.context.manifest.state.operations.keys()].filter((id) => this.stands(id)).map(networkName(group.name)),
    );
    const pattern = new RegExp(`^tidemark-drill-${group.name.replaceAll('.', '\\.')}-[0-9a-f]{8}$`);
    for (const name of await vms.driver.networks(`tidemark-drill-${group.name}-`))
      if (pattern.test(name) && !standing.has(name)) await vms.driver.removeNetwork(name);
  }

  /** True from the first durable step of a drill until its view is gone. */
  private stands(operation: string): boolean {
    const { operations, views } = this.room.group.context.manifest.state;
    const record = operations.get(operation);
    return record?.kind === 'drill' && (!hasEnded(record) || views.has(viewId(operation)));
  }

  private find(drill: string): OperationRecord {
    const record = this.room.group.context.manifest.state.operations.get(drill);
    if (record?.kind === 'drill') return record;
    throw new TidemarkError('operation-unknown', `Group ${this.room.group.name} has no drill ${drill}.`, {
      path: 'arguments.drill',
    });
  }

  /** Refuses, before anything is changed, what could not be drilled. */
  async check(checkpoint: Checkpoint, args: DrillScope, id: string): Promise<OperationResult> {
    const { group, vms } = this.room;
    const network = vms.spec.testNetwork === 'isolated' ? networkName(group.name)(id) : null;
    const plan: VmPlan = {
      operation: id,
      purpose: 'drill',
      checkpoint,
      only: args.vms,
      ...(network === null ? {} : { isolatedNetwork: network }),
      disk: this.room.futureDisk(checkpoint, viewId(id)),
    };
    const checked = await vms.check(plan);
    for (const [index, { vm }] of (args.checks ?? []).entries())
      if (!checked.vms.includes(vm))
        throw new TidemarkError('vm-unknown', `The drill boots no VM ${vm}.`, {
          path: `arguments.checks[${index}].vm`,
        });
    await proveNetworks(vms, plan, network);
    // None is made for VMs without a NIC: not every hypervisor may make one.
    const isUsed = network !== null && (await vms.networks(plan)).includes(network);
    return { ...checked, network: isUsed ? network : null };
  }

  private async prepare(args: DrillArguments, id: string): Promise<OperationResult> {
    const { context } = this.room.group;
    const checkpoint = resolveCheckpoint(context.checkpoints(), args.at);
    const checked = await this.check(checkpoint, args, id);
    await context.manifest.append({
      type: 'pin',
      id: pinId(id),
      checkpoint: checkpoint.id,
      reason: 'drill',
      removed: false,
    });
    return { checkpoint: checkpoint.id, sourceTimeMs: checkpoint.sourceTimeMs, ...checked, view: viewId(id) };
  }

  /** Runs with a signal that also aborts when the drill's time is over; a restart of the agent does not prolong it. */
  private async within<Value>(
    { record, signal, group }: StepContext,
    run: (signal: AbortSignal) => Promise<Value>,
  ): Promise<Value> {
    const endMs = endOf(record);
    if (endMs === undefined) return run(signal);
    const over = new AbortController();
    const timer = group.clock.after(Math.max(0, endMs - group.clock.wallMs()), () =>
      over.abort(new TidemarkError('timed-out', `Drill ${record.id} was not over in its maxDurationMinutes.`)),
    );
    try {
      return await run(AbortSignal.any([signal, over.signal]));
    } finally {
      timer.cancel();
    }
  }

  private planOf({ record }: StepContext): VmPlan {
    const { result } = record;
    const { checks } = record.arguments as unknown as DrillArguments;
    const network = result?.['network'];
    return {
      operation: record.id,
      purpose: 'drill',
      checkpoint: this.room.checkpoint(result?.['checkpoint']),
      only: result?.['vms'] as string[],
      ...(typeof network === 'string' ? { isolatedNetwork: network } : {}),
      checks,
      disk: viewDisks(this.room.group.views, this.room.exports, String(result?.['view'])),
    };
  }

  private steps(): OperationStep[] {
    const { room } = this;
    /** Whatever fails, nothing stays. */
    const step = (name: string, run: (context: StepContext) => Promise<OperationResult>): OperationStep => ({
      name,
      background: true,
      run: async (context) => {
        try {
          await room.environment.serving;
          return await this.within(context, (signal) => run({ ...context, signal }));
        } catch (error) {
          if (!room.stopping.signal.aborted) await this.tearDown(context.record.id);
          throw error;
        }
      },
    });
    return [
      step('view', async ({ group, record }) => {
        const { scratchLimitBytes } = record.arguments as unknown as DrillArguments;
        await room.group.views.open({
          id: viewId(record.id),
          at: { by: 'id', checkpoint: String(record.result?.['checkpoint']), allowIncomplete: true },
          purpose: 'drill',
          scratchLimitBytes: scratchLimitBytes ?? group.settings.scratchLimitBytes,
          label: `drill ${record.id}`,
        });
        await this.unpin(record.id);
        return {};
      }),
      step('defined', async (context) => {
        const plan = this.planOf(context);
        if (plan.isolatedNetwork !== undefined) await room.vms.driver.createIsolatedNetwork(plan.isolatedNetwork);
        await room.vms.define(plan);
        await proveNetworks(room.vms, plan);
        return {};
      }),
      step('booting', async (context) => {
        const plan = this.planOf(context);
        const boots = await room.vms.boot(plan, {
          sinceMs: context.record.startedMs,
          throughWave: room.vms.firstWave(plan.only),
          signal: room.signal(context.signal),
        });
        return { firstBootMs: firstBootMs(boots) };
      }),
      step('booted', async (context) => {
        const plan = this.planOf(context);
        const boots = await room.vms.boot(plan, {
          sinceMs: context.record.startedMs,
          signal: room.signal(context.signal),
        });
        const { [plan.isolatedNetwork ?? '']: isolation = null, ...testNetworks } = await proveNetworks(room.vms, plan);
        return { boots, isolation, testNetworks, passed: failedChecks(boots) === undefined };
      }),
      step('kept', async ({ record, group }) => {
        const { keepMinutes } = record.arguments as unknown as DrillArguments;
        const endMs = endOf(record) ?? Infinity;
        if (keepMinutes > 0) return { keepUntilMs: Math.min(endMs, group.clock.wallMs() + keepMinutes * minuteMs) };
        await this.tearDown(record.id);
        return {};
      }),
      {
        name: 'judged',
        run: ({ record }) => {
          const failed = failedChecks(record.result?.['boots'] as BootReport[]);
          if (failed !== undefined) throw new TidemarkError('vm-not-ready', failed);
          return Promise.resolve({});
        },
      },
    ];
  }

  private async stop(drill: string): Promise<OperationResult> {
    const { operations } = this.room.group;
    const running = operations.running().find(({ record }) => record.id === drill);
    if (running !== undefined) {
      operations.cancel(drill);
      await running.ended.catch((error: unknown) => {
        if (!isTidemarkError(error)) throw error;
      });
    }
    await this.tearDown(drill);
    return {};
  }

  private async tearDown(operation: string): Promise<void> {
    const { vms, group } = this.room;
    await vms.remove((mark) => mark.purpose === 'drill' && mark.operation === operation);
    await vms.driver.removeNetwork(networkName(group.name)(operation));
    await vms.removeFiles(operation);
    await this.unpin(operation);
    await group.views.close(viewId(operation));
  }

  private async unpin(operation: string): Promise<void> {
    const { manifest } = this.room.group.context;
    const pin = manifest.state.pins.get(pinId(operation));
    if (pin !== undefined) await manifest.append({ ...pin, removed: true });
  }
}

/** Wall time at which it is over, whatever it is at. */
function endOf({ arguments: args, startedMs }: OperationRecord): number | undefined {
  const { maxDurationMinutes } = args as { maxDurationMinutes?: number };
  return maxDurationMinutes === undefined ? undefined : startedMs + maxDurationMinutes * minuteMs;
}

function viewId(operation: string): string {
  return `drill-${shortHash(operation)}`;
}

function pinId(operation: string): string {
  return `operation-${operation}`;
}

function networkName(group: string): (operation: string) => string {
  return (operation) => `tidemark-drill-${group}-${shortHash(operation)}`;
}
