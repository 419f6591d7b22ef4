/** Source groups and peers that are declared by the API: beside those of the configuration file, never in their place. */
import { z } from 'zod';
import { sourceGroupSpecSchema } from '../config/schema-groups.js';
import { addressSchema, countSchema, nameSchema } from './scalars.js';

const ownerSchema = z.string().min(1).max(2048);

/** Creates or changes a source group. Repeating it changes nothing. */
export const declareSourceSchema = z.strictObject({
  spec: sourceGroupSpecSchema,
  owner: ownerSchema.optional().describe('Stack and URN; another owner is refused with `group-exists`'),
  previousOwner: ownerSchema
    .optional()
    .describe('Owner that hands the group over to `owner` (a resource that was renamed)'),
  expect: z
    .strictObject({ policyRevision: countSchema.optional() })
    .optional()
    .describe('Refused with `stale-revision` when the group is at another'),
});
export type DeclareSource = z.infer<typeof declareSourceSchema>;

/** Ends the capture; the VMs are left as they are. */
export const removeSourceSchema = z.strictObject({
  owner: ownerSchema.optional(),
  policyRevision: z.coerce.number().int().nonnegative().optional(),
});
export type RemoveSource = z.infer<typeof removeSourceSchema>;

/** A source group as one would declare it. */
export const sourceDeclarationSchema = z.object({
  name: nameSchema,
  spec: sourceGroupSpecSchema,
  declaredBy: z.enum(['api', 'file']).describe('file: only the configuration file changes it'),
  policyRevision: countSchema.describe('Grows with every change by the API'),
  owner: z.string().nullable(),
  opened: z.boolean().describe('Its disks are open for capture; attached or not is in the state of the group'),
  problem: z.string().nullable().describe('Why it is not open; tried again every few seconds'),
});
export type SourceDeclaration = z.infer<typeof sourceDeclarationSchema>;

/** Another agent that this one may talk to. */
export const declarePeerSchema = z.strictObject({
  address: addressSchema.optional().describe('Stream address; needed where this agent dials'),
  api: addressSchema.optional().describe("The peer's control API; needed to ask it for something: a move, a reverse"),
  owner: ownerSchema.optional().describe('Stack and URN; another owner is refused with `peer-exists`'),
  previousOwner: ownerSchema.optional(),
});
export type DeclarePeer = z.infer<typeof declarePeerSchema>;

export const removePeerSchema = z.strictObject({ owner: ownerSchema.optional() });
export type RemovePeer = z.infer<typeof removePeerSchema>;

export const peerDeclarationSchema = z.object({
  name: nameSchema,
  address: z.string().nullable(),
  api: z.string().nullable(),
  declaredBy: z.enum(['api', 'file']).describe('file: only the configuration file changes it'),
  owner: z.string().nullable(),
});
export type PeerDeclaration = z.infer<typeof peerDeclarationSchema>;
