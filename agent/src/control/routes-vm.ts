/** Routes about VMs of the agent's hypervisors. */
import { z } from 'zod';
import { vmAttachmentSchema } from '../service/group-schemas.js';
import { nameSchema } from '../service/scalars.js';
import { releaseRequestSchema, vmListSchema } from '../service/vm-schemas.js';
import { operators, readers, route, type Route } from './route.js';

const vmParams = z.strictObject({ vm: z.string().min(1).max(256).describe('Name or UUID') });
export const vmAttachmentListSchema = z.object({ vms: z.array(vmAttachmentSchema) });

export const vmRoutes: readonly Route[] = [
  route({
    id: 'vms',
    method: 'GET',
    path: '/v1/vms',
    summary: 'VMs of the hypervisors, their disks, which of them can be captured and which are',
    roles: readers,
    query: z.strictObject({ hypervisor: nameSchema.optional() }),
    reply: vmListSchema,
    handle: ({ service, query }) => service.vms(query.hypervisor),
  }),
  route({
    id: 'releaseVm',
    method: 'POST',
    path: '/v1/vms/{vm}/release',
    summary: 'Lets a VM go for a time: migrate, snapshot, resize; then it is attached again',
    roles: operators,
    params: vmParams,
    body: releaseRequestSchema,
    reply: vmAttachmentListSchema,
    handle: async ({ service, params, body, caller }) => ({ vms: await service.releaseVm(params.vm, body, caller) }),
  }),
  route({
    id: 'attachVm',
    method: 'POST',
    path: '/v1/vms/{vm}/attach',
    summary: 'Attaches a released VM now, or one that was let go because the agent hung',
    roles: operators,
    params: vmParams,
    reply: vmAttachmentListSchema,
    handle: async ({ service, params, caller }) => ({ vms: await service.attachVm(params.vm, caller) }),
  }),
];
