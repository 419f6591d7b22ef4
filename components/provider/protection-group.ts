/**
 * A protection group at its target agent. Never replaced: journal and replica are what it is. Every change says which
 * epoch and policy revision it was computed from, and the agent refuses a stale one.
 */
import { createGroup } from './group-create.js';
import { protectionGroupOutputsSchema, unknownFacts } from './group-outputs.js';
import { readGroup } from './group-read.js';
import { deleteGroup } from './group-removal.js';
import { updateGroup } from './group-update.js';
import { isKnown } from './check.js';
import { protectionGroupSchema } from './inputs.js';
import type { ResourceKind } from './resource.js';
import { urnOf } from './owner.js';

export const protectionGroup: ResourceKind = {
  token: 'tidemark:index:ProtectionGroup',
  description: 'A consistency group protected at a target site. Never replaced: it holds journal and replica',
  schema: protectionGroupSchema,
  outputs: protectionGroupOutputsSchema,

  check: (inputs, before) => {
    const moved = before !== undefined && before['name'] !== inputs['name'];
    if (!moved) return [];
    const reason = `the group ${String(before['name'])} holds data and is never replaced; declare another resource for another group`;
    return [{ property: 'name', reason }];
  },

  /**
   * `owner`: renamed with an alias, or imported, the group must learn who its owner is now. `policy`: the agent runs by
   * another one since a refresh. `state`: it was removed, and is taken back.
   */
  changes: (urn, { owner, policyDiffers, state }) =>
    new Map([
      ...(typeof owner === 'string' && urnOf(owner) !== urn ? [['owner', 'update'] as const] : []),
      ...(policyDiffers === true ? [['policy', 'update'] as const] : []),
      ...(state === 'retired' ? [['state', 'update'] as const] : []),
    ]),

  create: (given, call) =>
    isKnown(given) ? createGroup(given, call) : Promise.resolve({ id: '', outputs: { ...given, ...unknownFacts } }),

  update: (id, before, given, call) =>
    isKnown(given) ? updateGroup(id, before, given, call) : Promise.resolve({ ...given, ...unknownFacts }),

  read: readGroup,

  delete: (_id, before, call) => deleteGroup(before, call),
};
