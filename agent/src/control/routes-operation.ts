/** Routes about operations. */
import { z } from 'zod';
import {
  operationPageSchema,
  operationQuerySchema,
  operationRequestSchema,
  operationSchema,
  operationWaitSchema,
} from '../service/operation-schemas.js';
import { operationIdSchema } from '../service/scalars.js';
import { operators, readers, route, waitSignal, type Route } from './route.js';

const operationParams = z.strictObject({ operation: operationIdSchema });

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
    roles: operators,
    params: operationParams,
    body: operationRequestSchema,
    reply: operationSchema,
    handle: ({ service, caller, params, body }) => service.startOperation(params.operation, body, caller),
  }),
  route({
    id: 'operation',
    method: 'GET',
    path: '/v1/operations/{operation}',
    summary: 'State of an operation; waits for its end or for a revision above afterRevision on request',
    roles: readers,
    params: operationParams,
    query: operationWaitSchema,
    reply: operationSchema,
    handle: ({ service, params, query, signal }) =>
      query.waitSeconds === 0
        ? service.operation(params.operation)
        : service.waitOperation(params.operation, query.afterRevision, waitSignal(query.waitSeconds, signal)),
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
