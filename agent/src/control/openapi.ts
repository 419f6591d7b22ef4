/** The OpenAPI 3.1 document of the control API, made from the route table. */
import { z } from 'zod';
import { agentInfoSchema, healthSchema, peerStatusSchema } from '../service/agent-schemas.js';
import {
  checkpointPageSchema,
  checkpointRequestSchema,
  checkpointSchema,
  checkpointSelectorSchema,
} from '../service/checkpoint-schemas.js';
import { apiErrorSchema } from '../service/error-schema.js';
import { sourceGroupSpecSchema } from '../config/schema-groups.js';
import {
  declarePeerSchema,
  declareSourceSchema,
  peerDeclarationSchema,
  sourceDeclarationSchema,
} from '../service/declaration-schemas.js';
import { eventPageSchema, eventSchema } from '../service/event-schemas.js';
import { forecastRequestSchema, forecastSchema } from '../service/forecast-schemas.js';
import { groupStatusSchema, vmAttachmentSchema } from '../service/group-schemas.js';
import {
  declareGroupSchema,
  groupPolicySchema,
  restoreGroupSchema,
  retiredGroupSchema,
  targetGroupSpecSchema,
} from '../service/group-spec.js';
import { operationPageSchema, operationRequestSchema, operationSchema } from '../service/operation-schemas.js';
import { holdShareSchema, holdStepSchema } from '../service/hold-schemas.js';
import { rpoHistorySchema } from '../service/rpo-schemas.js';
import { viewRequestSchema, viewStatusSchema } from '../service/view-schemas.js';
import { releaseRequestSchema, vmListSchema, vmSchema } from '../service/vm-schemas.js';
import type { Route } from './route.js';
import { peerListSchema } from './routes-agent.js';
import { groupListSchema, retiredListSchema, viewListSchema } from './routes-group.js';
import { vmAttachmentListSchema } from './routes-vm.js';
import { plainRoutes, routes } from './routes.js';

type Json = Record<string, unknown>;

/** Version of the API, not of the software. */
export const apiVersion = '1.0.0';

const named: Readonly<Record<string, z.ZodType>> = {
  AgentInfo: agentInfoSchema,
  ApiError: apiErrorSchema,
  Checkpoint: checkpointSchema,
  CheckpointPage: checkpointPageSchema,
  CheckpointRequest: checkpointRequestSchema,
  CheckpointSelector: checkpointSelectorSchema,
  DeclareGroup: declareGroupSchema,
  DeclarePeer: declarePeerSchema,
  DeclareSource: declareSourceSchema,
  Event: eventSchema,
  EventPage: eventPageSchema,
  Forecast: forecastSchema,
  HoldShare: holdShareSchema,
  HoldStep: holdStepSchema,
  RpoHistory: rpoHistorySchema,
  ForecastRequest: forecastRequestSchema,
  GroupList: groupListSchema,
  GroupPolicy: groupPolicySchema,
  GroupStatus: groupStatusSchema,
  Health: healthSchema,
  Operation: operationSchema,
  PeerDeclaration: peerDeclarationSchema,
  SourceDeclaration: sourceDeclarationSchema,
  SourceGroupSpec: sourceGroupSpecSchema,
  OperationPage: operationPageSchema,
  OperationRequest: operationRequestSchema,
  PeerList: peerListSchema,
  PeerStatus: peerStatusSchema,
  ReleaseRequest: releaseRequestSchema,
  RestoreGroup: restoreGroupSchema,
  RetiredGroup: retiredGroupSchema,
  RetiredList: retiredListSchema,
  TargetGroupSpec: targetGroupSpecSchema,
  ViewList: viewListSchema,
  ViewRequest: viewRequestSchema,
  ViewStatus: viewStatusSchema,
  Vm: vmSchema,
  VmAttachment: vmAttachmentSchema,
  VmAttachmentList: vmAttachmentListSchema,
  VmList: vmListSchema,
};

const options = { io: 'input', target: 'draft-2020-12' } as const;

function componentSchemas(): Json {
  const registry = z.registry<{ id: string }>();
  for (const [id, schema] of Object.entries(named)) registry.add(schema, { id });
  const { schemas } = z.toJSONSchema(registry, { ...options, uri: (id) => `#/components/schemas/${id}` });
  for (const schema of Object.values(schemas) as Json[]) {
    delete schema['$schema'];
    delete schema['$id'];
  }
  return schemas;
}

function reference(schema: z.ZodType): Json {
  const name = Object.keys(named).find((id) => named[id] === schema);
  if (name === undefined) throw new Error('a body or reply schema is not named in openapi.ts');
  return { $ref: `#/components/schemas/${name}` };
}

function parameters(schema: z.ZodObject | undefined, place: 'path' | 'query'): Json[] {
  if (schema === undefined) return [];
  const json = z.toJSONSchema(schema, options) as { properties?: Record<string, Json>; required?: string[] };
  return Object.entries(json.properties ?? {}).map(([name, { description, ...type }]) => ({
    name,
    in: place,
    required: place === 'path' || json.required?.includes(name) === true,
    ...(description === undefined ? {} : { description }),
    schema: type,
  }));
}

const failure = {
  description: 'Refused or failed',
  content: { 'application/json': { schema: { $ref: '#/components/schemas/ApiError' } } },
};

function operation(route: Route): Json {
  const content = route.reply && { 'application/json': { schema: reference(route.reply) } };
  return {
    operationId: route.id,
    summary: route.summary,
    'x-roles': route.roles,
    parameters: [...parameters(route.params, 'path'), ...parameters(route.query, 'query')],
    ...(route.body && {
      requestBody: { required: true, content: { 'application/json': { schema: reference(route.body) } } },
    }),
    responses: { [content ? '200' : '204']: { description: 'Done', ...(content && { content }) }, default: failure },
  };
}

export function openApiDocument(): Json {
  const paths: Record<string, Json> = {};
  for (const route of routes) (paths[route.path] ??= {})[route.method.toLowerCase()] = operation(route);
  for (const { path, summary, contentType, roles } of plainRoutes) {
    const responses = { 200: { description: 'Done', content: { [contentType]: {} } }, default: failure };
    paths[path] = {
      get: { operationId: path.split('/').at(-1)!.replace('.json', ''), summary, 'x-roles': roles, responses },
    };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Tidemark control API',
      version: apiVersion,
      description:
        'HTTPS with mutual TLS 1.3. The role (x-roles) follows from the CN of the client certificate. Times are milliseconds since the Unix epoch.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: 'https://agent:7440' }],
    security: [{ mutualTLS: [] }],
    paths,
    components: { schemas: componentSchemas(), securitySchemes: { mutualTLS: { type: 'mutualTLS' } } },
  };
}
