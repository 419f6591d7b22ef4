/** The agent's service over its source and target groups. */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { sleep, type Clock } from '../core/clock.js';
import type { AgentInfo, Health, PeerStatus } from '../service/agent-schemas.js';
import type {
  Checkpoint,
  CheckpointPage,
  CheckpointQuery,
  CheckpointRequest,
  CheckpointSelector,
} from '../service/checkpoint-schemas.js';
import type {
  DeclarePeer,
  DeclareSource,
  PeerDeclaration,
  RemovePeer,
  RemoveSource,
  SourceDeclaration,
} from '../service/declaration-schemas.js';
import type { Expectation } from '../service/expectation.js';
import type { EventRing } from '../service/event-ring.js';
import type { EventPage, EventQuery } from '../service/event-schemas.js';
import type { Forecast, ForecastRequest } from '../service/forecast-schemas.js';
import type { DeclareGroup, GroupPolicy, RemoveGroup, RestoreGroup, RetiredGroup } from '../service/group-spec.js';
import type { GroupStatus, VmAttachmentView } from '../service/group-schemas.js';
import type { HoldShareState, HoldStepRequest } from '../service/hold-schemas.js';
import type { Operation, OperationPage, OperationQuery, OperationRequest } from '../service/operation-schemas.js';
import type { AgentService, Caller } from '../service/service.js';
import type { RpoHistory, RpoQuery } from '../service/rpo-schemas.js';
import type { ViewRequest, ViewStatus } from '../service/view-schemas.js';
import type { ReleaseRequest, VmList } from '../service/vm-schemas.js';
import { resolveCheckpoint } from '../target/checkpoints.js';
import type { TargetGroup } from '../target/group.js';
import type { OperationRecord } from '../target/operations.js';
import type { ApplicationCheckpoints } from './application-checkpoints.js';
import type { CatalogueSync } from './catalogue-sync.js';
import type { DeclaredPeers } from './declared-peers.js';
import type { DeclaredSources } from './declared-sources.js';
import type { ExportHost } from './exports.js';
import { forecastOf } from './forecast.js';
import type { HoldShares } from './hold-shares.js';
import type { JointCheckpoints } from './joint-checkpoints.js';
import { operationView } from './operation-view.js';
import type { PeerClients } from './peer-clients.js';
import { slotMs, type RpoSamples } from './rpo-samples.js';
import type { SourceOperations } from './source-operations.js';
import type { SourceSide } from './source-side.js';
import type { SourceStops } from './source-stops.js';
import type { SourceVms } from './source-vms.js';
import type { TakeOvers } from './take-overs.js';
import type { TargetSide } from './target-side.js';
import { targetCheckpoint, targetStatus, viewsOf, viewStatus } from './target-status.js';
import { vmList, vmView } from './vm-status.js';

export interface ServiceOptions {
  readonly clock: Clock;
  readonly info: Pick<AgentInfo, 'site' | 'name' | 'version' | 'boot'>;
  readonly peers: () => readonly { readonly name: string; readonly address?: string | undefined }[];
  readonly sources: SourceSide;
  readonly sourceOperations: SourceOperations;
  readonly declaredSources: DeclaredSources;
  readonly declaredPeers: DeclaredPeers;
  readonly stops: SourceStops;
  readonly applications: ApplicationCheckpoints;
  readonly shares: HoldShares;
  readonly joint: JointCheckpoints;
  readonly peerClients: PeerClients;
  readonly takeOvers: TakeOvers;
  readonly vms: SourceVms;
  readonly targets: TargetSide;
  readonly exports: ExportHost;
  readonly catalogue: CatalogueSync;
  readonly ring: EventRing;
  readonly rpo: RpoSamples;
  readonly health: () => Health;
}

/** Waits until a checkpoint that was marked is durable, at most so long. */
const checkpointWaitMs = 30_000;
const viewIdleMs = 500;
const takeOverMs = 24 * 3_600_000;

export class Service implements AgentService {
  private readonly startedMs: number;

  constructor(private readonly options: ServiceOptions) {
    this.startedMs = options.clock.wallMs();
  }

  agent(): Promise<Omit<AgentInfo, 'caller'>> {
    const { clock, info, sources, targets } = this.options;
    return Promise.resolve({
      ...info,
      startedMs: this.startedMs,
      uptimeSeconds: Math.max(0, clock.wallMs() - this.startedMs) / 1000,
      groupCount: sources.list().length + targets.list().length,
    });
  }

  health(): Promise<Health> {
    return Promise.resolve(this.options.health());
  }

  async peers(): Promise<PeerStatus[]> {
    const groups = await this.groups();
    return this.options.peers().map(({ name, address }) => {
      const links = groups.flatMap((group) =>
        group.links.filter((link) => link.peer === name).map((link) => ({ group, link })),
      );
      const up = links.filter(({ link }) => link.state === 'connected');
      return {
        name,
        address: address ?? null,
        connected: up.length > 0,
        groups: [...new Set(links.map(({ group }) => group.name))],
        clockOffsetMs: up[0]?.link.clockOffsetMs ?? null,
        lastSeenMs: up.length > 0 ? this.options.clock.wallMs() : null,
      };
    });
  }

  async groups(): Promise<GroupStatus[]> {
    const { sources, targets } = this.options;
    const all = [
      ...sources.list().map((group) => group.status()),
      // A history that a reversal closed stands behind the source group of the same name.
      ...(await Promise.all(
        targets
          .list()
          .filter(({ name }) => sources.find(name) === undefined)
          .map((group) => this.statusOf(group)),
      )),
    ];
    return all.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  }

  async group(name: string): Promise<GroupStatus> {
    const source = this.options.sources.find(name);
    if (source !== undefined) return source.status();
    return this.statusOf(this.options.targets.get(name));
  }

  async rpoHistory(name: string, { fromMs = 0 }: RpoQuery): Promise<RpoHistory> {
    const { rpo, clock } = this.options;
    const { checkpointIntervalSeconds } = await this.group(name);
    const slots = rpo.of(name, fromMs, clock.wallMs());
    return { group: name, slotSeconds: slotMs / 1000, checkpointIntervalSeconds, slots };
  }

  vms(hypervisor?: string): Promise<VmList> {
    return vmList(this.options.vms, hypervisor);
  }

  async releaseVm(vm: string, { forSeconds }: ReleaseRequest): Promise<VmAttachmentView[]> {
    const { vms, clock } = this.options;
    return (await vms.release(vm, clock.wallMs() + forSeconds * 1000)).map(vmView);
  }

  async attachVm(vm: string): Promise<VmAttachmentView[]> {
    return (await this.options.vms.attach(vm)).map(vmView);
  }

  async declareGroup(name: string, request: DeclareGroup): Promise<GroupStatus> {
    const { targets, sources, exports } = this.options;
    if (sources.find(name) !== undefined) {
      throw new TidemarkError('group-exists', `${name} is a source group of this agent.`, { path: 'name' });
    }
    const known = targets.find(name);
    if (known !== undefined) checkExpectation(known, request.expect);
    const owner = { owner: request.owner ?? null, previousOwner: request.previousOwner ?? null };
    return targetStatus(await targets.declare(name, request.spec, owner), exports);
  }

  async removeGroup(name: string, request: RemoveGroup): Promise<void> {
    const { targets, catalogue, takeOvers } = this.options;
    const group = targets.find(name);
    if (group === undefined) {
      if (!targets.notOpened.has(name)) await takeOvers.end(name);
      return;
    }
    checkExpectation(group, { epoch: request.epoch, policyRevision: request.policyRevision });
    const { owner } = group.context.settings;
    if (owner !== null && request.owner !== undefined && request.owner !== owner) {
      throw new TidemarkError('group-exists', `Group ${name} belongs to ${owner}.`, { path: 'owner' });
    }
    await targets.retire(name, request.graceDays, 'removed');
    await catalogue.forget(name);
    await takeOvers.end(name);
  }

  async sourceGroup(name: string): Promise<SourceDeclaration> {
    return this.options.declaredSources.get(name);
  }

  declareSourceGroup(name: string, request: DeclareSource): Promise<SourceDeclaration> {
    return this.options.declaredSources.declare(name, request);
  }

  removeSourceGroup(name: string, request: RemoveSource): Promise<void> {
    return this.options.declaredSources.remove(name, request);
  }

  async peer(name: string): Promise<PeerDeclaration> {
    return this.options.declaredPeers.get(name);
  }

  declarePeer(name: string, request: DeclarePeer): Promise<PeerDeclaration> {
    return this.options.declaredPeers.declare(name, request);
  }

  removePeer(name: string, request: RemovePeer): Promise<void> {
    return this.options.declaredPeers.remove(name, request);
  }

  async retiredGroups(): Promise<RetiredGroup[]> {
    const { sources, targets } = this.options;
    const closed = targets.list().filter(({ name }) => sources.find(name) !== undefined);
    return [
      ...closed.map(({ name }) => ({ name, why: 'reversed' as const, untilMs: null, policy: targets.policy(name) })),
      ...(await targets.listRetired()),
    ];
  }

  async restoreGroup(name: string, request: RestoreGroup): Promise<GroupStatus> {
    const { sources, targets, exports } = this.options;
    if (sources.find(name) !== undefined)
      throw new TidemarkError('group-exists', `${name} is a source group of this agent.`, { path: 'group' });
    return targetStatus(await targets.restore(name, request), exports);
  }

  policy(name: string): Promise<GroupPolicy> {
    return Promise.resolve(this.options.targets.policy(name));
  }

  async forecast(name: string, request: ForecastRequest): Promise<Forecast> {
    return forecastOf(this.options.targets.get(name), request);
  }

  async checkpoints(name: string, query: CheckpointQuery): Promise<CheckpointPage> {
    const source = this.options.sources.find(name);
    if (source === undefined) {
      const { targets, catalogue } = this.options;
      return catalogue.checkpoints(targets.get(name), query);
    }
    const all = source.checkpoints();
    const matching = all.filter(
      (checkpoint) =>
        (query.kind === undefined || checkpoint.kind === query.kind) &&
        (query.label === undefined || checkpoint.label === query.label) &&
        (query.fromMs === undefined || checkpoint.sourceTimeMs >= query.fromMs) &&
        (query.toMs === undefined || checkpoint.sourceTimeMs <= query.toMs) &&
        (query.complete === undefined || checkpoint.complete === query.complete) &&
        (query.before === undefined || checkpoint.id < query.before),
    );
    const page = matching.reverse().slice(0, query.limit);
    return { checkpoints: page, next: matching.length > page.length ? (page.at(-1)?.id ?? null) : null };
  }

  async resolveCheckpoint(name: string, selector: CheckpointSelector): Promise<Checkpoint> {
    const group = this.options.targets.get(name);
    return targetCheckpoint(group, resolveCheckpoint(group.checkpoints(), selector));
  }

  async createCheckpoint(name: string, request: CheckpointRequest): Promise<Checkpoint> {
    const { sources, targets, applications } = this.options;
    const source = sources.find(name);
    if (source !== undefined) {
      const kind = request.kind ?? (source.config.hooks === undefined ? 'tagged' : 'application');
      if (kind === 'application') return applications.take(source, request.label, checkpointWaitMs);
      return source.tag(request.label, checkpointWaitMs);
    }
    const group = targets.get(name);
    const id = (await this.askSource(group, request)) ?? (await group.takeBarrier('tagged', request.label));
    return targetCheckpoint(group, await group.waitForCheckpoint(id, checkpointWaitMs));
  }

  /** Hooks are the sources': one makes the checkpoint, of several each holds its VMs. Undefined: none needs to be asked for this one. */
  private async askSource(group: TargetGroup, { kind, label }: CheckpointRequest): Promise<string | undefined> {
    if (kind === 'tagged') return undefined;
    const { peerClients, joint } = this.options;
    const [stream, ...others] = group.context.manifest.state.streams.values();
    if (stream === undefined) return undefined;
    try {
      if (others.length > 0) return await joint.take(group, label);
      peerClients.check(stream);
    } catch (error) {
      const none = isTidemarkError(error) && ['peer-api-unknown', 'hooks-none'].includes(error.code);
      if (kind === undefined && none) return undefined;
      throw error;
    }
    const request = { ...(kind === undefined ? {} : { kind }), ...(label === undefined ? {} : { label }) };
    return (await peerClients.use(stream, (client) => client.createCheckpoint(group.name, request))).id;
  }

  async holdStep(
    name: string,
    hold: string,
    request: HoldStepRequest,
    { name: caller, role }: Caller,
  ): Promise<HoldShareState> {
    const source = this.options.sources.find(name);
    if (source === undefined || (role === 'peer' && !source.group.links.some(({ target }) => target === caller)))
      throw new TidemarkError('group-unknown', `No source group ${name}.`, { path: 'group' });
    return this.options.shares.step(source, hold, request);
  }

  private async statusOf(group: TargetGroup): Promise<GroupStatus> {
    const { exports, joint } = this.options;
    const status = await targetStatus(group, exports);
    return { ...status, alerts: [...status.alerts, ...joint.alertsOf(group.name)] };
  }

  async views(name?: string): Promise<ViewStatus[]> {
    const { targets, exports } = this.options;
    const groups = name === undefined ? targets.list() : [targets.get(name)];
    return groups.flatMap((group) => viewsOf(group, exports));
  }

  async openView(name: string, request: ViewRequest): Promise<ViewStatus> {
    const group = this.options.targets.get(name);
    const open = await group.views.open({
      id: request.id,
      at: request.at,
      purpose: request.purpose,
      scratchLimitBytes: request.scratchLimitBytes ?? group.context.settings.scratchLimitBytes,
      ...(request.label === undefined ? {} : { label: request.label }),
    });
    return viewStatus(group, open, this.options.exports);
  }

  async closeView(name: string, view: string, options: { force: boolean }): Promise<void> {
    const group = this.options.targets.get(name);
    const record = group.context.manifest.state.views.get(view);
    if (record?.purpose === 'production') {
      throw new TidemarkError('illegal-state', `View ${view} is what ${name} runs on; roll back or commit instead.`);
    }
    if (!options.force) await this.waitIdle(group, view);
    await group.views.close(view);
  }

  async operations(query: OperationQuery): Promise<OperationPage> {
    const all = this.options.targets
      .list()
      .filter((group) => query.group === undefined || group.name === query.group)
      .flatMap((group) => recordsOf(group).map((record) => this.view(group, record)))
      .concat(this.options.sourceOperations.list(query))
      .filter((operation) => query.kind === undefined || operation.kind === query.kind)
      .filter((operation) => query.state === undefined || operation.state === query.state)
      .sort((a, b) => b.startedMs - a.startedMs || (a.id < b.id ? 1 : -1));
    const from = query.before === undefined ? 0 : all.findIndex(({ id }) => id === query.before) + 1;
    const operations = all.slice(from, from + query.limit);
    return { operations, next: all.length > from + operations.length ? (operations.at(-1)?.id ?? null) : null };
  }

  async operation(id: string): Promise<Operation> {
    const source = this.options.sourceOperations.get(id);
    if (source !== undefined) return source;
    const [group, record] = this.findOperation(id);
    return this.view(group, record);
  }

  async startOperation(id: string, request: OperationRequest, caller: Caller): Promise<Operation> {
    if (request.kind === 'adopt') return this.adopt(id, request, caller);
    const source = this.options.sources.find(request.group);
    if (request.kind === 'sync') {
      if (source !== undefined)
        return this.options.sourceOperations.sync(id, source, request.arguments.disks, caller.name);
      throw new TidemarkError('request-invalid', 'A sync is started at the source agent of the group.', {
        path: 'kind',
      });
    }
    if (request.kind === 'stop-vms') return this.options.stops.stop(id, request, caller);
    if (request.kind === 'start-vms') return this.options.stops.start(id, request, caller);
    if (request.kind === 'take-over') return this.takeOver(id, request, caller);
    if (source !== undefined) {
      throw new TidemarkError('request-invalid', `A ${request.kind} is started at the target agent of the group.`, {
        path: 'kind',
      });
    }
    const group = this.options.targets.get(request.group);
    const elsewhere = this.options.targets
      .list()
      .find((other) => other !== group && recordsOf(other).some((record) => record.id === id));
    if (elsewhere !== undefined) {
      throw new TidemarkError('operation-conflict', `Operation ${id} belongs to group ${elsewhere.name}.`);
    }
    if (!recordsOf(group).some((record) => record.id === id)) checkExpectation(group, request.expect);
    const args = request.arguments as Record<string, unknown>;
    const started = await group.operations.start({ id, kind: request.kind, arguments: args, drivenBy: caller.name });
    return 'ended' in started ? operationView(group, started.record, started) : operationView(group, started);
  }

  async waitOperation(id: string, afterRevision: number | undefined, signal: AbortSignal): Promise<Operation> {
    const operations =
      this.options.sourceOperations.get(id) === undefined
        ? this.findOperation(id)[0].operations
        : this.options.sourceOperations;
    const seen = afterRevision ?? -1;
    for (;;) {
      const now = await this.operation(id);
      const moved = afterRevision !== undefined && now.revision > seen;
      if (now.state !== 'running' || moved || signal.aborted) return now;
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          stop();
          signal.removeEventListener('abort', wake);
          resolve();
        };
        const stop = operations.watch(wake);
        signal.addEventListener('abort', wake, { once: true });
      });
    }
  }

  async cancelOperation(id: string): Promise<Operation> {
    const source = this.options.sourceOperations.get(id);
    if (source?.kind === 'sync')
      throw new TidemarkError('illegal-state', 'A sync cannot be stopped: what is unknown must be read.');
    if (source !== undefined) {
      this.options.stops.cancel(id);
      return source;
    }
    const [group] = this.findOperation(id);
    group.operations.cancel(id);
    return this.operation(id);
  }

  events(query: EventQuery): Promise<EventPage> {
    return Promise.resolve(this.options.ring.page(query));
  }

  waitEvents(after: number, signal: AbortSignal): Promise<void> {
    return this.options.ring.wait(after, signal);
  }

  /** A client that has just said goodbye may still be counted; one that stays is `view-busy`. */
  private async waitIdle(group: TargetGroup, view: string): Promise<void> {
    const { clock } = this.options;
    const untilMs = clock.monotonicMs() + viewIdleMs;
    for (;;) {
      try {
        group.views.refuseBusy(view);
        return;
      } catch (error) {
        if (clock.monotonicMs() > untilMs) throw error;
        await sleep(clock, 20);
      }
    }
  }

  /** By an operator: for the only target of the group. */
  private takeOver(
    id: string,
    request: Extract<OperationRequest, { kind: 'take-over' }>,
    caller: Caller,
  ): Promise<Operation> {
    const { sourceOperations, sources, takeOvers } = this.options;
    const { group, arguments: args } = request;
    const peer = caller.role === 'peer' ? caller.name : (sources.find(group)?.config.targets[0]?.peer ?? caller.name);
    return Promise.resolve(
      sourceOperations.follow(id, request, caller.name, (progress) =>
        takeOvers.run({ id, group, peer }, args, progress, AbortSignal.timeout(takeOverMs)),
      ),
    );
  }

  private async adopt(
    id: string,
    request: Extract<OperationRequest, { kind: 'adopt' }>,
    caller: Caller,
  ): Promise<Operation> {
    const { targets } = this.options;
    const done = targets.find(request.group);
    const known = done === undefined ? undefined : recordsOf(done).find((record) => record.id === id);
    const group =
      known !== undefined && done !== undefined
        ? done
        : await targets.adopt(request.group, request.arguments.directory, request.arguments.encryptionKeyFile);
    const started = await group.operations.start({
      id,
      kind: 'adopt',
      arguments: { ...request.arguments },
      drivenBy: caller.name,
    });
    return 'ended' in started ? operationView(group, started.record, started) : operationView(group, started);
  }

  private findOperation(id: string): [TargetGroup, OperationRecord] {
    for (const group of this.options.targets.list()) {
      const record = recordsOf(group).find((candidate) => candidate.id === id);
      if (record !== undefined) return [group, record];
    }
    throw new TidemarkError('operation-unknown', `There is no operation ${id}.`);
  }

  private view(group: TargetGroup, record: OperationRecord): Operation {
    return operationView(
      group,
      record,
      group.operations.running().find((running) => running.record.id === record.id),
    );
  }
}

/** The newest record of each operation of the group; the running ones as they are now. */
function recordsOf(group: TargetGroup): OperationRecord[] {
  return [...group.context.manifest.state.operations.values()];
}

/** What the caller believed must still hold. */
function checkExpectation(group: TargetGroup, expect: Expectation | undefined): void {
  const epoch = group.context.manifest.state.epochs.at(-1)?.epoch;
  if (expect?.epoch !== undefined && expect.epoch !== epoch) {
    throw new TidemarkError('stale-epoch', `Group ${group.name} is at epoch ${epoch}, not ${expect.epoch}.`, {
      path: 'expect.epoch',
    });
  }
  const { policyRevision } = group.context.settings;
  if (expect?.policyRevision !== undefined && expect.policyRevision !== policyRevision) {
    throw new TidemarkError(
      'stale-revision',
      `Group ${group.name} is at policy revision ${policyRevision}, not ${expect.policyRevision}.`,
      {
        path: 'expect.policyRevision',
      },
    );
  }
}
