/** Routes about source groups and peers that are declared by the API. */
import { z } from 'zod';
import {
  declarePeerSchema,
  declareSourceSchema,
  peerDeclarationSchema,
  removePeerSchema,
  removeSourceSchema,
  sourceDeclarationSchema,
} from '../service/declaration-schemas.js';
import { nameSchema } from '../service/scalars.js';
import { operators, readers, route, type Route } from './route.js';

const params = z.strictObject({ name: nameSchema });

export const declaredRoutes: readonly Route[] = [
  route({
    id: 'sourceGroup',
    method: 'GET',
    path: '/v1/source-groups/{name}',
    summary: 'A source group as one would declare it',
    roles: readers,
    params,
    reply: sourceDeclarationSchema,
    handle: ({ service, params: { name } }) => service.sourceGroup(name),
  }),
  route({
    id: 'declareSourceGroup',
    method: 'PUT',
    path: '/v1/source-groups/{name}',
    summary:
      'Creates or changes a source group: what is captured here, and where it goes; repeating it changes nothing',
    roles: operators,
    params,
    body: declareSourceSchema,
    reply: sourceDeclarationSchema,
    handle: ({ service, params: { name }, body, caller }) => service.declareSourceGroup(name, body, caller),
  }),
  route({
    id: 'removeSourceGroup',
    method: 'DELETE',
    path: '/v1/source-groups/{name}',
    summary: 'Ends the capture of a source group that was declared by the API; its VMs are left as they are',
    roles: operators,
    params,
    query: removeSourceSchema,
    handle: ({ service, params: { name }, query, caller }) => service.removeSourceGroup(name, query, caller),
  }),
  route({
    id: 'peer',
    method: 'GET',
    path: '/v1/peers/{name}',
    summary: 'Another agent, as one would declare it',
    roles: readers,
    params,
    reply: peerDeclarationSchema,
    handle: ({ service, params: { name } }) => service.peer(name),
  }),
  route({
    id: 'declarePeer',
    method: 'PUT',
    path: '/v1/peers/{name}',
    summary: 'Lets another agent in by the name in its certificate, and says where it is; repeating it changes nothing',
    roles: operators,
    params,
    body: declarePeerSchema,
    reply: peerDeclarationSchema,
    handle: ({ service, params: { name }, body, caller }) => service.declarePeer(name, body, caller),
  }),
  route({
    id: 'removePeer',
    method: 'DELETE',
    path: '/v1/peers/{name}',
    summary: 'Forgets an agent that was declared by the API; refused while a group needs it',
    roles: operators,
    params,
    query: removePeerSchema,
    handle: ({ service, params: { name }, query, caller }) => service.removePeer(name, query, caller),
  }),
];
