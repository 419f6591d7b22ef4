/**
 * What the control API asks of an agent, and all that it asks. The API has checked every argument by its schema and the
 * caller's role before a call; the service throws TidemarkError for what it refuses. Reads are answered from memory or
 * the catalogue and never wait for a peer.
 */
import type { AgentInfo, Health, PeerStatus, Role } from './agent-schemas.js';
import type {
  Checkpoint,
  CheckpointPage,
  CheckpointQuery,
  CheckpointRequest,
  CheckpointSelector,
} from './checkpoint-schemas.js';
import type {
  DeclarePeer,
  DeclareSource,
  PeerDeclaration,
  RemovePeer,
  RemoveSource,
  SourceDeclaration,
} from './declaration-schemas.js';
import type { EventPage, EventQuery } from './event-schemas.js';
import type { Forecast, ForecastRequest } from './forecast-schemas.js';
import type { DeclareGroup, GroupPolicy, RemoveGroup, RestoreGroup, RetiredGroup } from './group-spec.js';
import type { GroupStatus, VmAttachmentView } from './group-schemas.js';
import type { HoldShareState, HoldStepRequest } from './hold-schemas.js';
import type { Operation, OperationPage, OperationQuery, OperationRequest } from './operation-schemas.js';
import type { RpoHistory, RpoQuery } from './rpo-schemas.js';
import type { ViewRequest, ViewStatus } from './view-schemas.js';
import type { ReleaseRequest, VmList } from './vm-schemas.js';

/** Who asks, from the verified certificate. */
export interface Caller {
  readonly name: string;
  readonly role: Role;
}

export interface AgentService {
  agent(): Promise<Omit<AgentInfo, 'caller'>>;
  health(): Promise<Health>;
  peers(): Promise<PeerStatus[]>;

  /** All groups, source and target, by name. */
  groups(): Promise<GroupStatus[]>;
  /** Throws `group-unknown`. */
  group(name: string): Promise<GroupStatus>;
  /** Since the agent's start, a day at most. Throws `group-unknown`. */
  rpoHistory(name: string, query: RpoQuery): Promise<RpoHistory>;
  /** Creates or changes a target group; durable when it returns. `group-exists`, `stale-epoch`, `stale-revision`. */
  declareGroup(name: string, request: DeclareGroup, caller: Caller): Promise<GroupStatus>;
  /** Retires a target group. `illegal-state` while a view runs a live VM. An unknown group is not an error. */
  removeGroup(name: string, request: RemoveGroup, caller: Caller): Promise<void>;

  /** Of the configuration file, or declared by the API. Throws `group-unknown`. */
  sourceGroup(name: string): Promise<SourceDeclaration>;
  /** Creates or changes a source group; durable when it returns. `group-exists`, `stale-revision`, `vm-unknown`. */
  declareSourceGroup(name: string, request: DeclareSource, caller: Caller): Promise<SourceDeclaration>;
  /** Ends its capture; a fence stays. An unknown group is not an error. `group-exists` for one of the file. */
  removeSourceGroup(name: string, request: RemoveSource, caller: Caller): Promise<void>;

  /** Throws `peer-unknown`. */
  peer(name: string): Promise<PeerDeclaration>;
  /** Durable when it returns. `peer-exists`. */
  declarePeer(name: string, request: DeclarePeer, caller: Caller): Promise<PeerDeclaration>;
  /** An unknown peer is not an error. `illegal-state` while a group needs it. */
  removePeer(name: string, request: RemovePeer, caller: Caller): Promise<void>;

  /** Removed target groups that are still kept; the one that stays longest comes first. */
  retiredGroups(): Promise<RetiredGroup[]>;
  /** Takes a removed group back as it was. `group-unknown`, `group-exists`, `encryption-key`. */
  restoreGroup(name: string, request: RestoreGroup, caller: Caller): Promise<GroupStatus>;

  /** What a target group runs by. Throws `group-unknown`. */
  policy(name: string): Promise<GroupPolicy>;
  /** What an operation or a policy of a target group would do now; changes nothing. */
  forecast(group: string, request: ForecastRequest): Promise<Forecast>;

  /** Newest first. */
  checkpoints(group: string, query: CheckpointQuery): Promise<CheckpointPage>;
  /** The checkpoint that the selector names now. `checkpoint-unknown`, `checkpoint-incomplete`, `checkpoint-expired`. */
  resolveCheckpoint(group: string, selector: CheckpointSelector): Promise<Checkpoint>;
  /** Marks now; resolves when the checkpoint is durable at the target. `peer-unreachable`, `barrier-broken`. */
  createCheckpoint(group: string, request: CheckpointRequest, caller: Caller): Promise<Checkpoint>;
  /** One step of this agent's share of a hold over several source agents. `group-unknown`, `operation-running`, `illegal-state`. */
  holdStep(group: string, hold: string, request: HoldStepRequest, caller: Caller): Promise<HoldShareState>;

  /** Of one group, or of all. */
  views(group?: string): Promise<ViewStatus[]>;
  /** Opens and exports; idempotent by `request.id`. */
  openView(group: string, request: ViewRequest, caller: Caller): Promise<ViewStatus>;
  /** `view-busy` with clients unless `force`. An unknown view is not an error. */
  closeView(group: string, view: string, options: { force: boolean }, caller: Caller): Promise<void>;

  /** Of one hypervisor, or of all, asked now. `request-invalid` for one that is not configured. */
  vms(hypervisor?: string): Promise<VmList>;
  /** Lets a VM go for a time; durable when it returns. `vm-unknown`. */
  releaseVm(vm: string, request: ReleaseRequest, caller: Caller): Promise<VmAttachmentView[]>;
  /** Attaches it now, whatever was asked or decided before. `vm-unknown`. */
  attachVm(vm: string, caller: Caller): Promise<VmAttachmentView[]>;

  operations(query: OperationQuery): Promise<OperationPage>;
  /** Throws `operation-unknown`. */
  operation(id: string): Promise<Operation>;
  /** Starts, or finds the one of that id; see operation-schemas.ts. Returns once the start is durable, not the end. */
  startOperation(id: string, request: OperationRequest, caller: Caller): Promise<Operation>;
  /** Resolves when the operation ended, its revision is above `afterRevision`, or the signal aborts: then as it is. */
  waitOperation(id: string, afterRevision: number | undefined, signal: AbortSignal): Promise<Operation>;
  /** Asks it to stop where it safely can; `illegal-state` after a point of no return. */
  cancelOperation(id: string, caller: Caller): Promise<Operation>;

  /** Events in the ring now; see {@link EventQuery}. `waitSeconds` is the API's affair, through `waitEvents`. */
  events(query: EventQuery): Promise<EventPage>;
  /** Resolves when an event with an id above `after` exists, or the signal aborts. */
  waitEvents(after: number, signal: AbortSignal): Promise<void>;
}
