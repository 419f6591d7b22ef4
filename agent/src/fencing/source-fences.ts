/**
 * Fencing at the source: a group whose target says `stale-epoch` was failed over, so its VMs here are stale. The policy is
 * applied to them, again and again until it holds; what was never sent is named; when the target takes the source back
 * (a rollback), the VMs get their networks back.
 */
import type { Clock } from '../core/clock.js';
import { errorTable, isTidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import type { LinkStatus } from '../link/link-status.js';
import type { GroupStatus } from '../service/group-schemas.js';
import type { FencingDriver } from './fenced-vm.js';
import type { FencePolicyOf, StaleGroup } from './stale-group.js';
import type { FenceRecords, FenceRecord } from './fence-record.js';

/** A VM may have been started, or a NIC plugged in. */
const againMs = 10_000;

export interface SourceFencesOptions {
  readonly records: FenceRecords;
  readonly clock: Clock;
  readonly events: EventSink;
  readonly groups: () => readonly StaleGroup[];
  readonly policyOf: FencePolicyOf;
  /** Throws when the configuration has no such hypervisor. */
  readonly driver: (hypervisor: string) => FencingDriver;
}

export class SourceFences {
  private known = new Map<string, FenceRecord>();
  private readonly told = new Map<string, string>();
  /** When the policy of a group is looked after again, monotonic milliseconds. */
  private readonly nextMs = new Map<string, number>();

  constructor(private readonly options: SourceFencesOptions) {}

  async load(): Promise<void> {
    this.known = new Map((await this.options.records.load()).map((record) => [record.group, record]));
  }

  /** Undefined: the group is not known to be stale. */
  get(group: string): FenceRecord | undefined {
    return this.known.get(group);
  }

  alertsOf(group: string): GroupStatus['alerts'] {
    const record = this.known.get(group);
    if (record === undefined) return [];
    const { orphan, policy, sinceMs } = record;
    const seconds = orphan.seconds === null ? 'an unknown time' : `${orphan.seconds.toFixed(1)} s`;
    return [
      {
        code: 'stale-epoch',
        message: `Failed over (fencing: ${policy}). ${orphan.name} holds what no target has: ${seconds}, ${orphan.bytes} bytes.`,
        hint: errorTable['stale-epoch'].hint,
        sinceMs,
      },
    ];
  }

  /** The group goes the other way now, and its VMs here are no more. Durable. */
  async forget(group: string): Promise<void> {
    await this.options.records.remove(group);
    this.known.delete(group);
    this.nextMs.delete(group);
  }

  /** One look at every group; what fails is told once and tried again in the next. */
  async round(): Promise<void> {
    for (const group of this.options.groups()) {
      try {
        await this.look(group);
        this.told.delete(group.name);
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        if (this.told.get(group.name) !== error.message)
          this.options.events.emit('fencing-failed', { group: group.name, code: error.code, error: error.message });
        this.told.set(group.name, error.message);
      }
    }
  }

  private async look(group: StaleGroup): Promise<void> {
    const fenced = group.links.find(({ state }) => state === 'fenced');
    const record = this.known.get(group.name);
    if (fenced === undefined) {
      // Only a target that takes the source back lifts the fence; that none can be reached says nothing.
      if (record !== undefined && group.links.some(({ connected }) => connected)) await this.lift(record);
      return;
    }
    const { clock } = this.options;
    if (record !== undefined && clock.monotonicMs() < (this.nextMs.get(group.name) ?? 0)) return;
    await this.apply(record ?? (await this.fence(group, fenced)));
    this.nextMs.set(group.name, clock.monotonicMs() + againMs);
  }

  private async fence(group: StaleGroup, link: LinkStatus): Promise<FenceRecord> {
    const { records, clock, events, policyOf } = this.options;
    const sinceMs = clock.wallMs();
    const durableMs = link.durableCheckpointMs;
    const record: FenceRecord = {
      group: group.name,
      sinceMs,
      reason: link.refusal?.message ?? 'stale epoch',
      policy: policyOf(group.name),
      vms: [...group.vms],
      orphan: {
        name: `orphan-${group.name}-${new Date(sinceMs).toISOString().slice(0, 19).replaceAll(':', '')}`,
        seconds: durableMs === undefined ? null : Math.max(0, (group.sourceTimeMs - durableMs) / 1000),
        bytes: link.unsentBytes + link.dirtyBytes,
        checkpoint: link.durableCheckpointId ?? null,
      },
    };
    await records.save(record);
    this.known.set(group.name, record);
    const { policy, orphan, reason } = record;
    events.emit('source-fenced', { group: group.name, policy, reason, orphan });
    return record;
  }

  private async apply({ policy, vms }: FenceRecord): Promise<void> {
    if (policy !== 'leave')
      await this.each(vms, (driver, vm) => (policy === 'stop' ? driver.stop(vm) : driver.isolate(vm)));
  }

  private async lift(record: FenceRecord): Promise<void> {
    if (record.policy === 'isolate') await this.each(record.vms, (driver, vm) => driver.rejoin(vm));
    await this.options.records.remove(record.group);
    this.known.delete(record.group);
    this.nextMs.delete(record.group);
    this.options.events.emit('source-unfenced', { group: record.group, orphan: record.orphan });
  }

  /** A VM that is gone needs no fence. */
  private async each(
    vms: FenceRecord['vms'],
    act: (driver: FencingDriver, vm: string) => Promise<void>,
  ): Promise<void> {
    for (const { hypervisor, vm } of vms) {
      try {
        await act(this.options.driver(hypervisor), vm);
      } catch (error) {
        if (!isTidemarkError(error, 'vm-unknown')) throw error;
      }
    }
  }
}
