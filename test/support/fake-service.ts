/** An agent's service without a data path: for tests of what stands before it. */
import { EventRing } from '../../agent/src/service/event-ring.js';
import { TidemarkError } from '../../agent/src/core/errors.js';
import type { AgentService, Caller } from '../../agent/src/service/service.js';
import type { Checkpoint, CheckpointQuery, CheckpointSelector } from '../../agent/src/service/checkpoint-schemas.js';
import type { Forecast, ForecastRequest } from '../../agent/src/service/forecast-schemas.js';
import type { DeclareGroup, GroupPolicy, RemoveGroup } from '../../agent/src/service/group-spec.js';
import type { GroupStatus } from '../../agent/src/service/group-schemas.js';
import type { Operation, OperationQuery, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import type { RpoHistory, RpoQuery } from '../../agent/src/service/rpo-schemas.js';
import { isSameRequest } from '../../agent/src/service/same-request.js';
import type { VmList } from '../../agent/src/service/vm-schemas.js';
import type { ViewRequest, ViewStatus } from '../../agent/src/service/view-schemas.js';

const startMs = Date.UTC(2026, 0, 1);

export function fakeCheckpoint(index: number, more: Partial<Checkpoint> = {}): Checkpoint {
  return {
    id: `0${index.toString().padStart(9, '0')}abcdef`,
    kind: 'crash',
    label: null,
    sourceTimeMs: startMs + index * 5000,
    epoch: 1,
    diskCount: 2,
    disksPresent: 2,
    complete: true,
    pins: [],
    attributes: {},
    ...more,
  };
}

export function fakeGroup(name: string, more: Partial<GroupStatus> = {}): GroupStatus {
  return {
    name,
    role: 'target',
    state: 'protecting',
    actions: ['failover', 'verify'],
    alerts: [],
    owner: null,
    policyRevision: 1,
    epoch: {
      epoch: 1,
      branch: '0123456789abcdef',
      parentBranch: null,
      checkpoint: null,
      holder: 'source',
      reason: 'declared',
      sinceMs: startMs,
    },
    rpoSeconds: 3.2,
    checkpointIntervalSeconds: 5,
    effectiveIntervalSeconds: 5,
    newestCheckpoint: fakeCheckpoint(9),
    disks: [
      {
        name: 'data',
        index: 0,
        sizeBytes: 1024 ** 3,
        stream: 'src-1',
        state: 'attached',
        exportName: null,
        exportUri: null,
        replica: { checkpoint: fakeCheckpoint(0).id, sourceTimeMs: startMs, allocatedBytes: 4096 },
      },
    ],
    links: [
      {
        peer: 'src-1',
        stream: 'src-1',
        address: '192.0.2.1:7441',
        state: 'connected',
        stage: null,
        connectedSinceMs: startMs,
        incarnation: 1,
        sequenceGiven: 10,
        sequenceDurable: 9,
        bufferBytes: 4096,
        bufferBytesMax: 1 << 20,
        spoolBytes: 0,
        spoolBytesMax: 0,
        dirtyBytes: 0,
        bytesPerSecond: 1e6,
        throttleBytesPerSecond: null,
        clockOffsetMs: 0.1,
        lastError: null,
      },
    ],
    syncs: [],
    journal: {
      bytes: 1e9,
      hardLimitBytes: 1e11,
      pendingBytes: 0,
      segmentCount: 3,
      recordCount: 100,
      checkpointCount: 10,
      oldestCheckpointMs: startMs,
      encrypted: false,
      freeBytes: 1e12,
    },
    views: [],
    lastOperation: null,
    ...more,
  };
}

export class FakeService implements AgentService {
  readonly events$ = new EventRing(
    { wallMs: () => startMs, monotonicMs: () => 0, after: () => ({ cancel: () => {} }) },
    'boot-1',
    100,
  );
  readonly groupList = new Map<string, GroupStatus>([
    ['shop', fakeGroup('shop')],
    ['other', fakeGroup('other', { links: [] })],
  ]);
  readonly checkpointList: Checkpoint[] = Array.from({ length: 10 }, (_, index) =>
    fakeCheckpoint(index, index === 4 ? { kind: 'tagged', label: 'before upgrade' } : {}),
  );
  rpoSlots: RpoHistory['slots'] = [];
  readonly viewList: ViewStatus[] = [];
  readonly operationList = new Map<string, Operation>();
  readonly callers: Caller[] = [];
  ready = true;
  /** Given to an operation when it starts. */
  outcome: Partial<Operation> = { state: 'succeeded', step: 'done' };
  /** Thrown by the next `groups()`. */
  failure: Error | undefined;

  async agent() {
    return {
      site: 'fra',
      name: 'fra-1',
      version: '1',
      boot: 'boot-1',
      startedMs: startMs,
      uptimeSeconds: 61,
      groupCount: this.groupList.size,
    };
  }
  async health() {
    return {
      ready: this.ready,
      checks: [{ name: 'journal', ok: this.ready, message: this.ready ? 'writable' : 'recovering' }],
    };
  }
  async peers() {
    return [
      { name: 'src-1', address: null, connected: true, groups: ['shop'], clockOffsetMs: null, lastSeenMs: startMs },
    ];
  }
  async groups() {
    if (this.failure) throw this.failure;
    return [...this.groupList.values()];
  }
  async group(name: string) {
    const group = this.groupList.get(name);
    if (!group) throw new TidemarkError('group-unknown', `no group ${name}`, { path: 'group' });
    return group;
  }
  async rpoHistory(name: string, { fromMs = 0 }: RpoQuery): Promise<RpoHistory> {
    const { checkpointIntervalSeconds } = await this.group(name);
    const slots = this.rpoSlots.filter(({ atMs }) => atMs + 30_000 > fromMs);
    return { group: name, slotSeconds: 30, checkpointIntervalSeconds, slots };
  }
  async declareGroup(name: string, request: DeclareGroup, caller: Caller) {
    this.callers.push(caller);
    const old = this.groupList.get(name);
    if (old && request.expect?.policyRevision !== undefined && request.expect.policyRevision !== old.policyRevision)
      throw new TidemarkError('stale-revision', `the policy is at revision ${old.policyRevision}`, {
        path: 'expect.policyRevision',
      });
    const group = fakeGroup(name, {
      policyRevision: (old?.policyRevision ?? 0) + 1,
      checkpointIntervalSeconds: request.spec.checkpointIntervalSeconds,
    });
    this.groupList.set(name, group);
    return group;
  }
  async removeGroup(name: string, _request: RemoveGroup) {
    this.groupList.delete(name);
  }
  async sourceGroup(name: string): Promise<never> {
    throw new TidemarkError('group-unknown', `${name} is not declared here`);
  }
  declareSourceGroup(name: string): Promise<never> {
    return this.sourceGroup(name);
  }
  async removeSourceGroup() {}
  async peer(name: string): Promise<never> {
    throw new TidemarkError('peer-unknown', `there is no peer ${name}`);
  }
  declarePeer(name: string): Promise<never> {
    return this.peer(name);
  }
  async removePeer() {}
  async retiredGroups() {
    return [];
  }
  async restoreGroup(name: string): Promise<never> {
    throw new TidemarkError('group-unknown', `no retired group ${name}`, { path: 'group' });
  }
  async policy(name: string): Promise<GroupPolicy> {
    await this.group(name);
    throw new TidemarkError('group-unknown', `${name} has no policy here`);
  }
  async forecast(name: string, _request: ForecastRequest): Promise<Forecast> {
    const group = await this.group(name);
    const { policyRevision, epoch } = group;
    return { group: name, epoch: epoch!.epoch, policyRevision, action: null, policy: null };
  }
  async checkpoints(group: string, query: CheckpointQuery) {
    await this.group(group);
    const all = this.checkpointList
      .filter(
        (point) =>
          (query.kind === undefined || point.kind === query.kind) &&
          (query.before === undefined || point.id < query.before),
      )
      .reverse();
    const checkpoints = all.slice(0, query.limit);
    return { checkpoints, next: all.length > query.limit ? checkpoints.at(-1)!.id : null };
  }
  async resolveCheckpoint(_group: string, at: CheckpointSelector) {
    if (at.by === 'latest') return this.checkpointList.at(-1)!;
    const found = this.checkpointList.find(
      (point) => (at.by === 'id' && point.id === at.checkpoint) || (at.by === 'label' && point.label === at.label),
    );
    if (!found) throw new TidemarkError('checkpoint-unknown', 'no such checkpoint', { path: 'at' });
    return found;
  }
  async createCheckpoint(
    _group: string,
    request: { kind?: 'application' | 'tagged' | undefined; label?: string | undefined },
  ) {
    const checkpoint = fakeCheckpoint(this.checkpointList.length, {
      kind: request.kind ?? 'tagged',
      label: request.label ?? null,
    });
    this.checkpointList.push(checkpoint);
    return checkpoint;
  }
  async holdStep(group: string): Promise<never> {
    throw new TidemarkError('group-unknown', `No source group ${group}.`, { path: 'group' });
  }
  async vms(): Promise<VmList> {
    const disk = { sizeBytes: 1024 ** 3, format: 'raw', source: '/dev/vg/db', group: null, disk: null };
    const disks = [
      { ...disk, target: 'vda', refusal: null, group: 'shop', disk: 'db-vda' },
      { ...disk, target: 'sda', refusal: 'shared with other VMs: writes of the others would be missed' },
    ];
    const uuid = '4dea22b3-1d52-d8f3-2516-782e98ab3fa0';
    return { vms: [{ hypervisor: 'local', name: 'db', uuid, state: 'running', disks }], unreachable: [] };
  }
  async releaseVm(vm: string): Promise<never> {
    throw new TidemarkError('vm-unknown', `No source group of this agent has a VM ${vm}.`, { path: 'vm' });
  }
  attachVm(vm: string): Promise<never> {
    return this.releaseVm(vm);
  }
  async views(group?: string) {
    return this.viewList.filter((view) => group === undefined || view.group === group);
  }
  async openView(group: string, request: ViewRequest) {
    const checkpoint = await this.resolveCheckpoint(group, request.at);
    const disks = [
      {
        name: 'data',
        sizeBytes: 1024 ** 3,
        exportName: `${request.id}/data`,
        uri: `nbd+unix:///${request.id}/data?socket=/run/x.sock`,
        tlsUri: null,
      },
    ];
    const view: ViewStatus = {
      id: request.id,
      group,
      checkpoint: checkpoint.id,
      sourceTimeMs: checkpoint.sourceTimeMs,
      purpose: request.purpose,
      label: null,
      state: 'open',
      openedMs: startMs,
      scratchBytes: 0,
      scratchLimitBytes: request.scratchLimitBytes ?? 1e9,
      clientCount: 0,
      disks,
    };
    this.viewList.push(view);
    return view;
  }
  async closeView(_group: string, id: string) {
    const index = this.viewList.findIndex((view) => view.id === id);
    if (index >= 0) this.viewList.splice(index, 1);
  }
  async operations(query: OperationQuery) {
    return {
      operations: [...this.operationList.values()].filter(
        (each) => query.group === undefined || each.group === query.group,
      ),
      next: null,
    };
  }
  async operation(id: string) {
    const operation = this.operationList.get(id);
    if (!operation) throw new TidemarkError('operation-unknown', `no operation ${id}`, { path: 'operation' });
    return operation;
  }
  async startOperation(id: string, request: OperationRequest, caller: Caller) {
    const known = this.operationList.get(id);
    if (known) {
      if (isSameRequest(known, request)) return known;
      throw new TidemarkError('operation-conflict', `${id} is a ${known.kind} of ${known.group}`, {
        path: 'operation',
      });
    }
    const operation: Operation = {
      id,
      kind: request.kind,
      group: request.group,
      arguments: request.arguments,
      state: 'running',
      step: 'begun',
      revision: 1,
      progress: null,
      startedMs: startMs,
      finishedMs: null,
      drivenBy: caller.name,
      result: null,
      error: null,
      ...this.outcome,
    };
    this.operationList.set(id, operation);
    return operation;
  }
  async waitOperation(id: string, afterRevision: number | undefined, signal: AbortSignal) {
    while (!signal.aborted) {
      const operation = await this.operation(id);
      if (operation.state !== 'running' || operation.revision > (afterRevision ?? Infinity)) return operation;
      await this.events$.wait(this.events$.lastId, signal);
    }
    return this.operation(id);
  }
  async cancelOperation(id: string) {
    const operation = { ...(await this.operation(id)), state: 'cancelled' as const, revision: 2 };
    this.operationList.set(id, operation);
    this.events$.add({
      severity: 'info',
      code: 'operation-cancelled',
      group: operation.group,
      message: id,
      attributes: {},
    });
    return operation;
  }
  async events(query: { after: number; limit: number; boot?: string | undefined }) {
    return this.events$.page(query);
  }
  waitEvents(after: number, signal: AbortSignal) {
    return this.events$.wait(after, signal);
  }
}
