/** VMs of the hypervisors that an agent knows, protected or not. */
import { z } from 'zod';
import { apiErrorSchema } from './error-schema.js';
import { bytesSchema, nameSchema } from './scalars.js';

export const vmDiskSchema = z.object({
  target: z.string().describe('Name within the VM'),
  sizeBytes: bytesSchema.describe('0: not known while the VM is off'),
  format: z.string(),
  source: z.string().describe('File, device or URI'),
  refusal: z.string().nullable().describe('Why it cannot be captured; null: it can'),
  group: nameSchema.nullable().describe('Group that captures it'),
  disk: nameSchema.nullable().describe('Its name in that group'),
});

export const vmSchema = z.object({
  hypervisor: nameSchema,
  name: z.string(),
  uuid: z.string(),
  state: z.enum(['running', 'paused', 'off']),
  disks: z.array(vmDiskSchema),
});
export type VmView = z.infer<typeof vmSchema>;

export const vmListSchema = z.object({
  vms: z.array(vmSchema),
  unreachable: z
    .array(z.object({ hypervisor: nameSchema, error: apiErrorSchema }))
    .describe('Hypervisors that did not answer: their VMs are missing in the list'),
});
export type VmList = z.infer<typeof vmListSchema>;

/** A release has an end, so that nobody forgets it. */
export const releaseSecondsMax = 7 * 86_400;
export const releaseRequestSchema = z.strictObject({
  forSeconds: z.number().min(1).max(releaseSecondsMax).describe('Then the agent attaches the VM again by itself'),
});
export type ReleaseRequest = z.infer<typeof releaseRequestSchema>;
