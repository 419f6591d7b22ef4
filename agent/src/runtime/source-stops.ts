/**
 * Shutting a group's VMs down at the source for a move (`stop-vms`), and starting them again (`start-vms`).
 *
 * stop-vms: checked → record → each wave asked, until off → last checkpoint durable at the target → done. Fails or is
 * called off before that: those that it asked are started again. An agent that is started anew in the middle does that too:
 * while it was away nobody captured what the guests wrote last.
 * start-vms: the stop is marked as called off, durably, before the first VM is started; a later request with the id of
 * that stop is answered with it, and stops nothing.
 */
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import { toApiError } from '../service/error-schema.js';
import type { Operation, OperationRequest } from '../service/operation-schemas.js';
import { isSameRequest } from '../service/same-request.js';
import type { Caller } from '../service/service.js';
import { checkComplete } from './final-mark.js';
import type { SourceOperations } from './source-operations.js';
import type { SourceSide } from './source-side.js';
import type { SourceVms } from './source-vms.js';
import type { StoppedVm, StopRecord, StopRecords } from './stop-records.js';
import { abandonStop, driveStop, finished, type StopRunHost } from './stop-run.js';
import { VmPower } from './vm-power.js';

export type StopRequest = Extract<OperationRequest, { kind: 'stop-vms' }>;
export type StartRequest = Extract<OperationRequest, { kind: 'start-vms' }>;

export interface SourceStopsOptions {
  readonly records: StopRecords;
  readonly operations: SourceOperations;
  readonly sources: Pick<SourceSide, 'find'>;
  readonly vms: Pick<SourceVms, 'of' | 'hypervisor'>;
  readonly clock: Clock;
  readonly events: EventSink;
}

interface Run {
  readonly abort: AbortController;
  readonly ended: Promise<void>;
}

type RecordChange = Partial<Omit<StopRecord, 'operation'>> & { readonly operation?: Partial<Operation> };

export class SourceStops {
  private readonly power: VmPower;
  private readonly runs = new Map<string, Run>();
  private readonly starting = new Mutex();
  private closing = false;

  constructor(private readonly options: SourceStopsOptions) {
    this.power = new VmPower(
      options.clock,
      (name) => options.vms.hypervisor(name),
      () => this.closing,
    );
  }

  async load(): Promise<void> {
    await this.options.records.load();
    for (const { operation } of this.options.records.list()) this.options.operations.put(operation);
  }

  /** Ends what a kill cut short; in the background. */
  resume(): void {
    for (const record of this.options.records.list()) {
      if (record.operation.state !== 'running') continue;
      if (record.operation.kind === 'start-vms') this.run(record, () => this.driveStart(record));
      else this.run(record, (signal) => abandonStop(this.host, record, interrupted(), signal));
    }
  }

  /** What runs is taken up by {@link resume} of the next start. */
  async close(): Promise<void> {
    this.closing = true;
    for (const { abort } of this.runs.values())
      abort.abort(new TidemarkError('shutting-down', 'The agent is stopping.'));
    await Promise.all([...this.runs.values()].map(({ ended }) => ended));
  }

  /** Resolves when the request is durable. Throws, before anything is touched, what makes it impossible. */
  stop(id: string, request: StopRequest, caller: Caller): Promise<Operation> {
    return this.starting.run(async () => {
      const known = this.known(id, request);
      if (known !== undefined) return known;
      const { group, arguments: args } = request;
      const calledOff = this.options.records.list().find(({ operation }) => operation.arguments['stop'] === id);
      if (calledOff !== undefined)
        throw new TidemarkError('illegal-state', `Operation ${id} was called off by ${calledOff.operation.id}.`);
      const source = this.options.sources.find(group);
      if (source === undefined) throw new TidemarkError('group-unknown', `This agent has no source group ${group}.`);
      if (source.config.disks.length > 0 && !args.sourceStopped)
        throw new TidemarkError('source-running', `Group ${group} has disks that are not of its VMs.`, {
          path: 'arguments.sourceStopped',
        });
      const target = this.targetOf(request, caller);
      checkComplete(source.group, target);
      return this.begin(id, request, caller, { target, waves: await this.waves(group, args.order) });
    });
  }

  /** Resolves when the request, and that it calls the stop off, is durable. */
  start(id: string, request: StartRequest, caller: Caller): Promise<Operation> {
    return this.starting.run(async () => {
      const known = this.known(id, request);
      if (known !== undefined) return known;
      const stopped = this.options.records.get(request.arguments.stop);
      if (stopped !== undefined && (stopped.operation.kind !== 'stop-vms' || stopped.operation.group !== request.group))
        throw new TidemarkError(
          'request-invalid',
          `Operation ${request.arguments.stop} stopped no VMs of that group.`,
          {
            path: 'arguments.stop',
          },
        );
      return this.begin(id, request, caller, { target: null, waves: [] });
    });
  }

  /** Asks it to stop where it is; its VMs are started again. */
  cancel(id: string): void {
    if (this.options.records.get(id)?.operation.kind !== 'stop-vms')
      throw new TidemarkError('illegal-state', `Operation ${id} cannot be stopped.`);
    this.runs.get(id)?.abort.abort(calledOff(id));
  }

  private known(id: string, request: StopRequest | StartRequest): Operation | undefined {
    if (this.closing) throw new TidemarkError('shutting-down', 'The agent is stopping.');
    const known = this.options.operations.get(id);
    if (known === undefined) {
      const busy = [...this.runs.keys()].find(
        (run) => this.options.records.get(run)?.operation.group === request.group,
      );
      if (busy !== undefined && request.kind === 'stop-vms')
        throw new TidemarkError('operation-running', `Operation ${busy} holds group ${request.group}.`);
      return undefined;
    }
    if (isSameRequest(known, request)) return known;
    throw new TidemarkError('operation-conflict', `Operation ${id} was a ${known.kind} with other arguments.`);
  }

  private targetOf({ group, arguments: args }: StopRequest, caller: Caller): string {
    if (caller.role === 'peer') return caller.name;
    const links = this.options.sources.find(group)?.group.links ?? [];
    const target = args.target ?? (links.length === 1 ? links[0]?.target : undefined);
    if (target !== undefined) return target;
    throw new TidemarkError('request-invalid', `Group ${group} has several targets: name the one that is meant.`, {
      path: 'arguments.target',
    });
  }

  /** VMs that run, in the order of their shutdown; a name of another source agent's VM is not ours to judge. */
  private async waves(group: string, order: readonly (readonly string[])[]): Promise<StoppedVm[][]> {
    const running: StoppedVm[] = [];
    for (const { hypervisor, vm } of this.options.vms.of(group)) {
      const known = { hypervisor: hypervisor.name, name: vm.name, uuid: vm.uuid };
      if (!(await this.power.isOff(known))) running.push(known);
    }
    const placeOf = (vm: StoppedVm): number => order.findIndex((names) => names.includes(vm.name));
    const places = [...new Set(running.map(placeOf))].sort((a, b) => a - b);
    return places.map((place) => running.filter((vm) => placeOf(vm) === place));
  }

  private async begin(
    id: string,
    { kind, group, arguments: args }: StopRequest | StartRequest,
    caller: Caller,
    plan: Pick<StopRecord, 'target' | 'waves'>,
  ): Promise<Operation> {
    const operation: Operation = {
      ...{ id, kind, group, arguments: args, state: 'running', step: 'started', revision: 0, progress: null },
      ...{ startedMs: this.options.clock.wallMs(), finishedMs: null, drivenBy: caller.name, result: null, error: null },
    };
    const record = await this.save({ version: 1, ...plan, askedCount: 0, operation }, {});
    this.run(record, (signal) =>
      kind === 'stop-vms' ? driveStop(this.host, record, signal) : this.driveStart(record),
    );
    return record.operation;
  }

  private async driveStart(record: StopRecord): Promise<void> {
    const id = String(record.operation.arguments['stop']);
    const run = this.runs.get(id);
    run?.abort.abort(calledOff(id));
    await run?.ended;
    const stopped = this.options.records.get(id);
    if (stopped?.operation.state === 'succeeded')
      await this.save(stopped, { operation: { state: 'cancelled', step: 'called-off' } });
    const { started, failed } = await this.power.start(stopped?.waves.slice(0, stopped.askedCount).flat() ?? []);
    if (this.closing) return;
    const error =
      failed.length === 0
        ? null
        : toApiError(new TidemarkError('hypervisor-failed', `Not started: ${failed.join('; ')}`));
    await this.save(record, {
      operation: finished(this.options.clock, error === null ? 'succeeded' : 'failed', { started }, error),
    });
    this.options.events.emit('source-vms-started', { group: record.operation.group, operation: id, started, failed });
  }

  private get host(): StopRunHost {
    const { clock, events, sources } = this.options;
    return {
      ...{ clock, events, power: this.power, isClosing: () => this.closing },
      source: (group) => sources.find(group)?.group,
      save: (record, change) => this.save(record, change),
      show: (operation) => this.options.operations.put({ ...operation, revision: this.nextRevision(operation) }),
    };
  }

  private async save(record: StopRecord, change: RecordChange): Promise<StopRecord> {
    const revision = this.nextRevision(record.operation);
    const next = { ...record, ...change, operation: { ...record.operation, ...change.operation, revision } };
    await this.options.records.save(next);
    this.options.operations.put(next.operation);
    return next;
  }

  private nextRevision({ id }: Operation): number {
    return (this.options.operations.get(id)?.revision ?? 0) + 1;
  }

  private run(record: StopRecord, drive: (signal: AbortSignal) => Promise<void>): void {
    const { id, group } = record.operation;
    const abort = new AbortController();
    const ended = drive(abort.signal)
      .catch((error: unknown) => {
        // The agent stops, or the record cannot be written: the next start takes it up.
        if (!isTidemarkError(error)) throw error;
        const { code, message } = error;
        this.options.events.emit('operation-failed', { group, operation: id, step: 'record', code, error: message });
      })
      .finally(() => this.runs.delete(id));
    this.runs.set(id, { abort, ended });
  }
}

function interrupted(): TidemarkError {
  return new TidemarkError(
    'source-interrupted',
    'The source agent was restarted while it stopped the VMs; nobody captured what they wrote last.',
  );
}

function calledOff(id: string): TidemarkError {
  return new TidemarkError('shutting-down', `Operation ${id} was called off.`);
}
