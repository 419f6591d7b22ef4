/** Routes about the agent itself. */
import { z } from 'zod';
import { agentInfoSchema, healthSchema, peerStatusSchema } from '../service/agent-schemas.js';
import { eventPageSchema, eventQuerySchema } from '../service/event-schemas.js';
import { everyone, readers, route, waitSignal, type Route } from './route.js';

export const peerListSchema = z.object({ peers: z.array(peerStatusSchema) });

export const agentRoutes: readonly Route[] = [
  route({
    id: 'agent',
    method: 'GET',
    path: '/v1/agent',
    summary: 'Identity and version of the agent, and who it takes the caller for',
    roles: everyone,
    reply: agentInfoSchema,
    handle: async ({ service, caller }) => ({ ...(await service.agent()), caller }),
  }),
  route({
    id: 'health',
    method: 'GET',
    path: '/v1/health',
    summary: 'What works and what does not; /readyz says the same by its status',
    roles: everyone,
    reply: healthSchema,
    handle: async ({ service }) => service.health(),
  }),
  route({
    id: 'peers',
    method: 'GET',
    path: '/v1/peers',
    summary: 'The other agents that this one knows',
    roles: readers,
    reply: peerListSchema,
    handle: async ({ service }) => ({ peers: await service.peers() }),
  }),
  route({
    id: 'events',
    method: 'GET',
    path: '/v1/events',
    summary: 'Events after an id, oldest first; waits for the first one on request',
    roles: readers,
    query: eventQuerySchema,
    reply: eventPageSchema,
    handle: async ({ service, query, signal }) => {
      const page = await service.events(query);
      if (page.events.length > 0 || query.waitSeconds === 0) return page;
      await service.waitEvents(page.next, waitSignal(query.waitSeconds, signal));
      return service.events(query);
    },
  }),
];
