/** Typed client of the control API. Every answer is checked by its schema; unknown properties are left out. */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import {
  agentInfoSchema,
  healthSchema,
  peerStatusSchema,
  type AgentInfo,
  type Health,
  type PeerStatus,
} from '../service/agent-schemas.js';
import {
  checkpointPageSchema,
  checkpointSchema,
  type Checkpoint,
  type CheckpointPage,
  type checkpointQuerySchema,
  type checkpointRequestSchema,
  type CheckpointSelector,
} from '../service/checkpoint-schemas.js';
import {
  peerDeclarationSchema,
  sourceDeclarationSchema,
  type declarePeerSchema,
  type declareSourceSchema,
  type PeerDeclaration,
  type SourceDeclaration,
} from '../service/declaration-schemas.js';
import { eventPageSchema, type EventPage } from '../service/event-schemas.js';
import { forecastSchema, type Forecast, type forecastRequestSchema } from '../service/forecast-schemas.js';
import {
  groupStatusSchema,
  vmAttachmentSchema,
  type GroupStatus,
  type VmAttachmentView,
} from '../service/group-schemas.js';
import {
  groupPolicySchema,
  retiredGroupSchema,
  type declareGroupSchema,
  type GroupPolicy,
  type restoreGroupSchema,
  type RetiredGroup,
} from '../service/group-spec.js';
import { holdShareSchema, type HoldShareState, type HoldStepRequest } from '../service/hold-schemas.js';
import {
  operationPageSchema,
  operationSchema,
  type Operation,
  type OperationPage,
  type operationRequestSchema,
} from '../service/operation-schemas.js';
import { formatSelector } from '../service/selector.js';
import { rpoHistorySchema, type RpoHistory } from '../service/rpo-schemas.js';
import { viewStatusSchema, type viewRequestSchema, type ViewStatus } from '../service/view-schemas.js';
import { vmListSchema, type ReleaseRequest, type VmList } from '../service/vm-schemas.js';
import { Connection, type CallOptions, type ConnectionOptions } from './connection.js';

/** The agent may hold a waiting request this long; clients ask again. */
const waitSeconds = 25;
/** Making a checkpoint waits for the target; the agent itself gives up after 60 s. */
const slowMs = 65_000;
/** An application checkpoint prepares, holds and proves first. */
const quiesceMs = 240_000;
/** As long as a hook may be given for the work before a hold. */
const prepareMs = 620_000;
const segment = encodeURIComponent;
const attachmentsSchema = z.object({ vms: z.array(vmAttachmentSchema) });
type Query = NonNullable<CallOptions['query']>;

export class AgentClient {
  readonly #connection: Connection;

  constructor(options: ConnectionOptions) {
    this.#connection = new Connection(options);
  }

  /** Closes kept connections. The client can be used again. */
  close(): void {
    this.#connection.close();
  }

  agent(): Promise<AgentInfo> {
    return this.#get('/v1/agent', agentInfoSchema);
  }

  health(): Promise<Health> {
    return this.#get('/v1/health', healthSchema);
  }

  async peers(): Promise<PeerStatus[]> {
    return (await this.#list('/v1/peers', 'peers', peerStatusSchema)) as PeerStatus[];
  }

  async groups(): Promise<GroupStatus[]> {
    return (await this.#list('/v1/groups', 'groups', groupStatusSchema)) as GroupStatus[];
  }

  group(name: string): Promise<GroupStatus> {
    return this.#get(`/v1/groups/${segment(name)}`, groupStatusSchema);
  }

  rpoHistory(name: string, query: { fromMs?: number } = {}): Promise<RpoHistory> {
    return this.#get(`/v1/groups/${segment(name)}/rpo`, rpoHistorySchema, query);
  }

  declareGroup(name: string, body: z.input<typeof declareGroupSchema>): Promise<GroupStatus> {
    return this.#send('PUT', `/v1/groups/${segment(name)}`, groupStatusSchema, { body });
  }

  async removeGroup(
    name: string,
    query: { owner?: string; graceDays?: number; epoch?: number; policyRevision?: number } = {},
  ): Promise<void> {
    await this.#connection.call('DELETE', `/v1/groups/${segment(name)}`, { query });
  }

  sourceGroup(name: string): Promise<SourceDeclaration> {
    return this.#get(`/v1/source-groups/${segment(name)}`, sourceDeclarationSchema);
  }

  declareSourceGroup(name: string, body: z.input<typeof declareSourceSchema>): Promise<SourceDeclaration> {
    const path = `/v1/source-groups/${segment(name)}`;
    return this.#send('PUT', path, sourceDeclarationSchema, { body, extraMs: slowMs });
  }

  async removeSourceGroup(name: string, query: { owner?: string; policyRevision?: number } = {}): Promise<void> {
    await this.#connection.call('DELETE', `/v1/source-groups/${segment(name)}`, { query, extraMs: slowMs });
  }

  peer(name: string): Promise<PeerDeclaration> {
    return this.#get(`/v1/peers/${segment(name)}`, peerDeclarationSchema);
  }

  declarePeer(name: string, body: z.input<typeof declarePeerSchema>): Promise<PeerDeclaration> {
    return this.#send('PUT', `/v1/peers/${segment(name)}`, peerDeclarationSchema, { body });
  }

  async removePeer(name: string, query: { owner?: string } = {}): Promise<void> {
    await this.#connection.call('DELETE', `/v1/peers/${segment(name)}`, { query });
  }

  async retiredGroups(): Promise<RetiredGroup[]> {
    return (await this.#list('/v1/retired-groups', 'groups', retiredGroupSchema)) as RetiredGroup[];
  }

  restoreGroup(name: string, body: z.input<typeof restoreGroupSchema> = {}): Promise<GroupStatus> {
    return this.#send('POST', `/v1/retired-groups/${segment(name)}/restore`, groupStatusSchema, {
      body,
      extraMs: slowMs,
    });
  }

  policy(group: string): Promise<GroupPolicy> {
    return this.#get(`/v1/groups/${segment(group)}/policy`, groupPolicySchema);
  }

  forecast(group: string, body: z.input<typeof forecastRequestSchema>): Promise<Forecast> {
    return this.#send('POST', `/v1/groups/${segment(group)}/forecast`, forecastSchema, { body });
  }

  checkpoints(
    group: string,
    query: Partial<Record<keyof z.input<typeof checkpointQuerySchema>, string | number | boolean>> = {},
  ): Promise<CheckpointPage> {
    return this.#get(`/v1/groups/${segment(group)}/checkpoints`, checkpointPageSchema, query);
  }

  resolveCheckpoint(group: string, at: CheckpointSelector): Promise<Checkpoint> {
    return this.#get(`/v1/groups/${segment(group)}/checkpoint`, checkpointSchema, { at: formatSelector(at) });
  }

  createCheckpoint(group: string, body: z.input<typeof checkpointRequestSchema> = {}): Promise<Checkpoint> {
    return this.#send('POST', `/v1/groups/${segment(group)}/checkpoints`, checkpointSchema, {
      body,
      extraMs: quiesceMs,
    });
  }

  holdStep(group: string, hold: string, body: HoldStepRequest): Promise<HoldShareState> {
    const path = `/v1/groups/${segment(group)}/holds/${segment(hold)}`;
    return this.#send('PUT', path, holdShareSchema, { body, extraMs: body.step === 'prepare' ? prepareMs : quiesceMs });
  }

  async views(group?: string): Promise<ViewStatus[]> {
    return (await this.#list('/v1/views', 'views', viewStatusSchema, { group })) as ViewStatus[];
  }

  openView(group: string, body: z.input<typeof viewRequestSchema>): Promise<ViewStatus> {
    return this.#send('POST', `/v1/groups/${segment(group)}/views`, viewStatusSchema, { body, extraMs: slowMs });
  }

  async closeView(group: string, view: string, options: { force?: boolean } = {}): Promise<void> {
    await this.#connection.call('DELETE', `/v1/groups/${segment(group)}/views/${segment(view)}`, {
      query: options,
      extraMs: slowMs,
    });
  }

  vms(hypervisor?: string): Promise<VmList> {
    return this.#send('GET', '/v1/vms', vmListSchema, { query: { hypervisor }, extraMs: slowMs });
  }

  async releaseVm(vm: string, body: ReleaseRequest): Promise<VmAttachmentView[]> {
    const answer = await this.#send('POST', `/v1/vms/${segment(vm)}/release`, attachmentsSchema, { body });
    return answer.vms;
  }

  async attachVm(vm: string): Promise<VmAttachmentView[]> {
    const answer = await this.#send('POST', `/v1/vms/${segment(vm)}/attach`, attachmentsSchema, {});
    return answer.vms;
  }

  operations(
    query: { group?: string; kind?: string; state?: string; limit?: number; before?: string } = {},
  ): Promise<OperationPage> {
    return this.#get('/v1/operations', operationPageSchema, query);
  }

  operation(id: string): Promise<Operation> {
    return this.#get(`/v1/operations/${segment(id)}`, operationSchema);
  }

  /** Starts, or finds the operation of that id. */
  startOperation(id: string, body: z.input<typeof operationRequestSchema>): Promise<Operation> {
    return this.#send('PUT', `/v1/operations/${segment(id)}`, operationSchema, { body, extraMs: slowMs });
  }

  cancelOperation(id: string): Promise<Operation> {
    return this.#send('POST', `/v1/operations/${segment(id)}/cancel`, operationSchema, {});
  }

  /** Waits for the end, telling each change. Cancel with the signal stops the wait, not the operation. */
  async waitOperation(
    id: string,
    onChange: (operation: Operation) => void = () => {},
    signal?: AbortSignal,
  ): Promise<Operation> {
    let operation = await this.operation(id);
    onChange(operation);
    while (operation.state === 'running') {
      const query = { afterRevision: operation.revision, waitSeconds };
      const next = await this.#send('GET', `/v1/operations/${segment(id)}`, operationSchema, {
        query,
        signal,
        extraMs: waitSeconds * 1000,
      });
      if (next.revision !== operation.revision) onChange(next);
      operation = next;
    }
    return operation;
  }

  /** `waitSeconds` at most 30. */
  events(
    query: { after?: number; limit?: number; waitSeconds?: number; boot?: string } = {},
    signal?: AbortSignal,
  ): Promise<EventPage> {
    return this.#send('GET', '/v1/events', eventPageSchema, {
      query,
      signal,
      extraMs: (query.waitSeconds ?? 0) * 1000,
    });
  }

  /** Prometheus text. */
  async metrics(): Promise<string> {
    const response = await this.#connection.open('/metrics');
    let text = '';
    for await (const chunk of response) text += String(chunk);
    return text;
  }

  #get<Schema extends z.ZodType>(path: string, schema: Schema, query: Query = {}): Promise<z.infer<Schema>> {
    return this.#send('GET', path, schema, { query });
  }

  async #list(path: string, property: string, schema: z.ZodType, query: Query = {}): Promise<unknown[]> {
    const answer = await this.#connection.call('GET', path, { query });
    const list: unknown = (answer as Record<string, unknown> | null)?.[property];
    if (!Array.isArray(list)) throw new TidemarkError('protocol-error', `${path} answered without ${property}`);
    return list.map((entry) => parse(path, schema, entry));
  }

  async #send<Schema extends z.ZodType>(
    method: string,
    path: string,
    schema: Schema,
    options: CallOptions,
  ): Promise<z.infer<Schema>> {
    return parse(path, schema, await this.#connection.call(method, path, options));
  }
}

function parse<Schema extends z.ZodType>(path: string, schema: Schema, value: unknown): z.infer<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new TidemarkError(
    'protocol-version',
    `${path} answered what this version does not understand: ${issue.path.join('.')}: ${issue.message}`,
  );
}
