/**
 * The control API, version 1: one table that the server, the OpenAPI document and the role check are made from. What is
 * not in it does not exist. Within /v1 properties and routes are only ever added.
 */
import type { Role } from '../service/agent-schemas.js';
import type { Route } from './route.js';
import { everyone, readers } from './route.js';
import { agentRoutes } from './routes-agent.js';
import { declaredRoutes } from './routes-declared.js';
import { groupRoutes } from './routes-group.js';
import { operationRoutes } from './routes-operation.js';
import { vmRoutes } from './routes-vm.js';

export const routes: readonly Route[] = [
  ...agentRoutes,
  ...groupRoutes,
  ...declaredRoutes,
  ...operationRoutes,
  ...vmRoutes,
];

/** Routes whose reply is not one JSON value of the API; handled in server.ts. All are GET. */
export const plainRoutes: readonly { path: string; summary: string; contentType: string; roles: readonly Role[] }[] = [
  { path: '/livez', summary: '200 while the process answers', contentType: 'text/plain', roles: everyone },
  { path: '/readyz', summary: '200 when ready, else 503', contentType: 'text/plain', roles: everyone },
  { path: '/metrics', summary: 'Prometheus metrics, see docs/metrics.md', contentType: 'text/plain', roles: readers },
  { path: '/openapi.json', summary: 'This document', contentType: 'application/json', roles: everyone },
  {
    path: '/v1/events/stream',
    summary: 'Events as server-sent events; Last-Event-ID continues',
    contentType: 'text/event-stream',
    roles: readers,
  },
];
