/** Routes about operations. */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import {
  operationPageSchema,
  operationQuerySchema,
  operationRequestSchema,
  operationSchema,
  operationWaitSchema,
  type Operation,
  type OperationKind,
  type OperationRequest,
} from '../service/operation-schemas.js';
import { operationIdSchema } from '../service/scalars.js';
import type { AgentService, Caller } from '../service/service.js';
import { everyone, operators, peersToo, readers, route, waitSignal, type Route } from './route.js';

const operationParams = z.strictObject({ operation: operationIdSchema });

/** What the target of a group may ask of its source. */
const peerKinds: readonly OperationKind[] = ['stop-vms', 'start-vms', 'take-over'];

/** A peer that the group is sent to, or comes from. Throws `forbidden`. */
async function checkPeer(
  service: AgentService,
  caller: Caller,
  { kind, group: name }: OperationRequest,
): Promise<void> {
  if (caller.role !== 'peer') return;
  const group = await service.group(name);
  const isPeer = group.links.some(({ peer }) => peer === caller.name);
  if (peerKinds.includes(kind) && group.role === 'source' && isPeer) return;
  // Asked again when it had been taken over already; the peer may not be connected as its source yet.
  const isSource = async (): Promise<boolean> => (await service.policy(name)).spec.streams.includes(caller.name);
  if (kind === 'take-over' && group.role === 'target' && (await isSource())) return;
  throw new TidemarkError('forbidden', `${caller.name} is a peer, and may not ask for a ${kind} of group ${name}`);
}

/** A peer sees what it asked for itself. */
function checkSeen(caller: Caller, operation: Operation): Operation {
  if (caller.role !== 'peer' || operation.drivenBy === caller.name) return operation;
  throw new TidemarkError('operation-unknown', `There is no operation ${operation.id}.`);
}

export const operationRoutes: readonly Route[] = [
  route({
    id: 'operations',
    method: 'GET',
    path: '/v1/operations',
    summary: 'Operations, newest first',
    roles: readers,
    query: operationQuerySchema,
    reply: operationPageSchema,
    handle: ({ service, query }) => service.operations(query),
  }),
  route({
    id: 'startOperation',
    method: 'PUT',
    path: '/v1/operations/{operation}',
    summary: 'Starts an operation by an id of the caller; the same request again is answered with its state',
    roles: peersToo,
    params: operationParams,
    body: operationRequestSchema,
    reply: operationSchema,
    handle: async ({ service, caller, params, body }) => {
      await checkPeer(service, caller, body);
      return service.startOperation(params.operation, body, caller);
    },
  }),
  route({
    id: 'operation',
    method: 'GET',
    path: '/v1/operations/{operation}',
    summary: 'State of an operation; waits for its end or for a revision above afterRevision on request',
    roles: everyone,
    params: operationParams,
    query: operationWaitSchema,
    reply: operationSchema,
    handle: async ({ service, caller, params, query, signal }) => {
      const now = checkSeen(caller, await service.operation(params.operation));
      if (query.waitSeconds === 0) return now;
      return service.waitOperation(params.operation, query.afterRevision, waitSignal(query.waitSeconds, signal));
    },
  }),
  route({
    id: 'cancelOperation',
    method: 'POST',
    path: '/v1/operations/{operation}/cancel',
    summary: 'Asks an operation to stop where it safely can',
    roles: operators,
    params: operationParams,
    reply: operationSchema,
    handle: ({ service, caller, params }) => service.cancelOperation(params.operation, caller),
  }),
];
