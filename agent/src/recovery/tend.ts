/**
 * Looks after recovered VMs: lets stopped ones go on, ends drills in time, holds a failover to its policy, and goes on
 * with a transition that a hypervisor stopped in the middle.
 */
import { isTidemarkError } from '../core/errors.js';
import { hasEnded } from '../target/operations.js';
import { sweepCopies } from './commit.js';
import type { Drills } from './drills.js';
import type { Room } from './room.js';

const hourMs = 3_600_000;
/** A look for leftovers costs a few calls of the hypervisor. */
const sweepMs = 15_000;
/** From the failure of a transition that must be finished to its next try. */
const goOnMs = 1000;

export class Tending {
  private nextSweepMs = 0;
  private goOnAtMs: number | undefined;
  private remindMs = 0;
  private lastProblem: string | undefined;

  constructor(
    private readonly room: Room,
    private readonly drills: Drills,
  ) {}

  /** One round; what fails is told once and tried again. */
  async round(): Promise<void> {
    const { room } = this;
    if (!room.enabled) return;
    const { clock, events } = room.group.context;
    try {
      await this.letGoOn();
      await this.goOn();
      await this.policy();
      if (clock.monotonicMs() >= this.nextSweepMs) {
        await this.drills.sweep();
        await sweepCopies(room);
        this.nextSweepMs = clock.monotonicMs() + sweepMs;
      }
      this.lastProblem = undefined;
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      if (error.message !== this.lastProblem)
        events.emit('recovery-upkeep-failed', { group: room.group.name, code: error.code, error: error.message });
      this.lastProblem = error.message;
    }
  }

  /** A VM that an I/O error of its view stopped (the agent was away, scratch was full) does the same I/O again. */
  private async letGoOn(): Promise<void> {
    const { vms, group } = this.room;
    const open = group.views
      .list()
      .filter(({ record }) => record.purpose === 'production' || record.purpose === 'drill');
    if (open.length === 0) return;
    const stopped = new Set(await vms.driver.stoppedByError());
    if (stopped.size === 0) return;
    const full = open.some(({ view }) => view.scratchUsedBytes >= view.scratchLimitBytes);
    if (full) return;
    for (const { uuid, mark } of await vms.owned(() => true)) {
      if (!stopped.has(uuid)) continue;
      await vms.driver.start(uuid);
      group.context.events.emit('vm-resumed', { group: group.name, vm: mark.vm, purpose: mark.purpose });
    }
  }

  /** Behind the point of no return a hypervisor that is away delays a transition; it does not end it. */
  private async goOn(): Promise<void> {
    const { operations, context } = this.room.group;
    if (!operations.stalled) {
      this.goOnAtMs = undefined;
      return;
    }
    const nowMs = context.clock.monotonicMs();
    this.goOnAtMs ??= nowMs + goOnMs;
    if (nowMs < this.goOnAtMs) return;
    await this.room.vms.driver.ping();
    this.goOnAtMs = nowMs + goOnMs;
    await operations.resume();
  }

  /** What the settings want when a failover stays uncommitted for too long. */
  private async policy(): Promise<void> {
    const { group, vms } = this.room;
    const { state } = group.context.manifest;
    const epoch = state.epochs.at(-1);
    if (state.state !== 'failed-over' || epoch === undefined) return;
    const { uncommittedHours, afterwards } = vms.spec;
    const nowMs = group.context.clock.wallMs();
    if (nowMs - epoch.wallMs < uncommittedHours * hourMs) return;
    if (afterwards === 'remind') {
      if (nowMs < this.remindMs) return;
      this.remindMs = nowMs + hourMs;
      const hours = Math.round((nowMs - epoch.wallMs) / hourMs);
      group.context.events.emit('failover-uncommitted', { group: group.name, epoch: epoch.epoch, hours });
      return;
    }
    const id = this.policyId(`policy-${afterwards}-epoch-${epoch.epoch}`, nowMs);
    if (id === undefined) return;
    const args = afterwards === 'rollback' ? { keepHours: group.context.settings.rollbackKeepHours } : {};
    await group.operations.start({ id, kind: afterwards, arguments: args, drivenBy: 'policy' });
  }

  /** Undefined while one is under way, or failed lately: it is tried again every hour, and the alert stays until then. */
  private policyId(first: string, nowMs: number): string | undefined {
    const { operations } = this.room.group.context.manifest.state;
    for (let count = 1; ; count++) {
      const id = count === 1 ? first : `${first}-${count}`;
      const known = operations.get(id);
      if (known === undefined) return id;
      if (!hasEnded(known) || nowMs - known.wallMs < hourMs) return undefined;
    }
  }
}
