/** Routes about groups, their checkpoints and views. */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import {
  checkpointPageSchema,
  checkpointQuerySchema,
  checkpointRequestSchema,
  checkpointSchema,
} from '../service/checkpoint-schemas.js';
import { forecastRequestSchema, forecastSchema } from '../service/forecast-schemas.js';
import { groupStatusSchema, type GroupStatus } from '../service/group-schemas.js';
import {
  declareGroupSchema,
  groupPolicySchema,
  removeGroupSchema,
  restoreGroupSchema,
  retiredGroupSchema,
} from '../service/group-spec.js';
import { holdIdSchema, holdShareSchema, holdStepSchema } from '../service/hold-schemas.js';
import { nameSchema } from '../service/scalars.js';
import { rpoHistorySchema, rpoQuerySchema } from '../service/rpo-schemas.js';
import { parseSelector } from '../service/selector.js';
import type { AgentService, Caller } from '../service/service.js';
import { viewRequestSchema, viewStatusSchema } from '../service/view-schemas.js';
import { everyone, operators, peersToo, readers, route, type Route } from './route.js';

export const groupListSchema = z.object({ groups: z.array(groupStatusSchema) });
export const retiredListSchema = z.object({ groups: z.array(retiredGroupSchema) });
export const viewListSchema = z.object({ views: z.array(viewStatusSchema) });
const groupParams = z.strictObject({ group: nameSchema });

/** A peer sees the groups that it sends or receives, no others. */
function sees(caller: Caller, group: GroupStatus): boolean {
  return caller.role !== 'peer' || group.links.some((link) => link.peer === caller.name);
}

async function visibleGroup(service: AgentService, caller: Caller, name: string): Promise<GroupStatus> {
  const group = await service.group(name);
  if (!sees(caller, group)) throw new TidemarkError('group-unknown', `no group ${name}`, { path: 'group' });
  return group;
}

export const groupRoutes: readonly Route[] = [
  route({
    id: 'groups',
    method: 'GET',
    path: '/v1/groups',
    summary: 'All groups, source and target, with their state',
    roles: everyone,
    reply: groupListSchema,
    handle: async ({ service, caller }) => ({
      groups: (await service.groups()).filter((group) => sees(caller, group)),
    }),
  }),
  route({
    id: 'group',
    method: 'GET',
    path: '/v1/groups/{group}',
    summary: 'State of one group',
    roles: everyone,
    params: groupParams,
    reply: groupStatusSchema,
    handle: ({ service, caller, params }) => visibleGroup(service, caller, params.group),
  }),
  route({
    id: 'rpoHistory',
    method: 'GET',
    path: '/v1/groups/{group}/rpo',
    summary: 'The RPO over the last day, since the start of the agent: the worst of each slot',
    roles: readers,
    params: groupParams,
    query: rpoQuerySchema,
    reply: rpoHistorySchema,
    handle: ({ service, params, query }) => service.rpoHistory(params.group, query),
  }),
  route({
    id: 'declareGroup',
    method: 'PUT',
    path: '/v1/groups/{group}',
    summary: 'Creates or changes a target group; repeating it changes nothing',
    roles: operators,
    params: groupParams,
    body: declareGroupSchema,
    reply: groupStatusSchema,
    handle: ({ service, caller, params, body }) => service.declareGroup(params.group, body, caller),
  }),
  route({
    id: 'removeGroup',
    method: 'DELETE',
    path: '/v1/groups/{group}',
    summary: 'Retires a target group; journal and replica stay for graceDays',
    roles: operators,
    params: groupParams,
    query: removeGroupSchema,
    handle: ({ service, caller, params, query }) => service.removeGroup(params.group, query, caller),
  }),
  route({
    id: 'retiredGroups',
    method: 'GET',
    path: '/v1/retired-groups',
    summary: 'Groups that were removed, and histories that a reversal closed, as long as they are kept',
    roles: readers,
    reply: retiredListSchema,
    handle: async ({ service }) => ({ groups: await service.retiredGroups() }),
  }),
  route({
    id: 'restoreGroup',
    method: 'POST',
    path: '/v1/retired-groups/{group}/restore',
    summary: 'Takes a removed group back as it was, with its history',
    roles: operators,
    params: groupParams,
    body: restoreGroupSchema,
    reply: groupStatusSchema,
    handle: ({ service, caller, params, body }) => service.restoreGroup(params.group, body, caller),
  }),
  route({
    id: 'policy',
    method: 'GET',
    path: '/v1/groups/{group}/policy',
    summary: 'What a target group runs by, as one would declare it',
    roles: readers,
    params: groupParams,
    reply: groupPolicySchema,
    handle: ({ service, params }) => service.policy(params.group),
  }),
  route({
    id: 'forecast',
    method: 'POST',
    path: '/v1/groups/{group}/forecast',
    summary: 'What a failover, a drill or a change of the policy would do now; changes nothing',
    roles: readers,
    params: groupParams,
    body: forecastRequestSchema,
    reply: forecastSchema,
    handle: ({ service, params, body }) => service.forecast(params.group, body),
  }),
  route({
    id: 'checkpoints',
    method: 'GET',
    path: '/v1/groups/{group}/checkpoints',
    summary: 'Checkpoints, newest first, by pages',
    roles: everyone,
    params: groupParams,
    query: checkpointQuerySchema,
    reply: checkpointPageSchema,
    handle: async ({ service, caller, params, query }) => {
      if (caller.role === 'peer') await visibleGroup(service, caller, params.group);
      return service.checkpoints(params.group, query);
    },
  }),
  route({
    id: 'resolveCheckpoint',
    method: 'GET',
    path: '/v1/groups/{group}/checkpoint',
    summary: 'The checkpoint that a selector names now: latest, latest-application, id:, label:, time:',
    roles: readers,
    params: groupParams,
    query: z.strictObject({ at: z.string().min(1).max(160).default('latest') }),
    reply: checkpointSchema,
    handle: ({ service, params, query }) =>
      service.resolveCheckpoint(params.group, parseSelector(query.at, Date.now())),
  }),
  route({
    id: 'createCheckpoint',
    method: 'POST',
    path: '/v1/groups/{group}/checkpoints',
    summary: 'Marks a checkpoint now; answers when it is durable at the target',
    roles: peersToo,
    params: groupParams,
    body: checkpointRequestSchema,
    reply: checkpointSchema,
    handle: async ({ service, caller, params, body }) => {
      if (caller.role === 'peer') await visibleGroup(service, caller, params.group);
      return service.createCheckpoint(params.group, body, caller);
    },
  }),
  route({
    id: 'holdStep',
    method: 'PUT',
    path: '/v1/groups/{group}/holds/{hold}',
    summary: "A step of this source agent's share of a hold over several; the target of the group asks for it",
    roles: peersToo,
    params: z.strictObject({ group: nameSchema, hold: holdIdSchema }),
    body: holdStepSchema,
    reply: holdShareSchema,
    handle: ({ service, caller, params, body }) => service.holdStep(params.group, params.hold, body, caller),
  }),
  route({
    id: 'views',
    method: 'GET',
    path: '/v1/views',
    summary: 'Open and kept views of all groups, or of one',
    roles: readers,
    query: z.strictObject({ group: nameSchema.optional() }),
    reply: viewListSchema,
    handle: async ({ service, query }) => ({ views: await service.views(query.group) }),
  }),
  route({
    id: 'openView',
    method: 'POST',
    path: '/v1/groups/{group}/views',
    summary: 'Opens a read-write view of a checkpoint and exports it; idempotent by id',
    roles: operators,
    params: groupParams,
    body: viewRequestSchema,
    reply: viewStatusSchema,
    handle: ({ service, caller, params, body }) => service.openView(params.group, body, caller),
  }),
  route({
    id: 'closeView',
    method: 'DELETE',
    path: '/v1/groups/{group}/views/{view}',
    summary: 'Closes a view and deletes its private writes',
    roles: operators,
    params: groupParams.extend({ view: nameSchema }),
    query: z.strictObject({ force: z.stringbool().default(false).describe('Although clients are connected') }),
    handle: ({ service, caller, params, query }) => service.closeView(params.group, params.view, query, caller),
  }),
];
