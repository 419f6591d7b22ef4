/**
 * Certificates: an authority, and what it issues to agents and persons. Both are made in the provider and live in the state
 * alone, their keys as secrets; an authority whose key stays with a person is given to AgentEnrolment as it is.
 */
import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import type { Failure } from './check.js';
import { isKnown } from './check.js';
import { agentEnrolmentSchema, certificateAuthoritySchema } from './appliance-inputs.js';
import type { ResourceKind, State } from './resource.js';
import { unknown, type Properties } from './values.js';

const dayMs = 86_400_000;
const made = {
  certificate: z.string().describe('PEM text'),
  key: z.string().meta({ secret: true }).describe('PEM text'),
  expires: z.string().describe('ISO time'),
};
const unknownPair = { certificate: unknown, key: unknown, expires: unknown };

export const certificateAuthority: ResourceKind = {
  token: 'tidemark:index:CertificateAuthority',
  description: 'A certificate authority for agents and operators. Its key is a secret of the state',
  schema: certificateAuthoritySchema,
  outputs: z.object(made),
  check: (inputs, before) =>
    unchanged(certificateAuthoritySchema, inputs, before, ['name', 'days'], 'every certificate of it would be void'),

  async create(given, { preview }) {
    if (preview || !isKnown(given)) return { id: '', outputs: { ...given, ...unknownPair } };
    const { name, days } = certificateAuthoritySchema.parse(given);
    const { createAuthority } = await import('../../agent/src/pki/authority.js');
    return { id: name, outputs: { ...given, ...pairOutputs(await createAuthority(name, days)) } };
  },
  update: async (_id, before, given) => ({ ...before, ...given }),
  read: (id, before, inputs) => Promise.resolve(asItWas('a certificate', id, before, inputs)),
  delete: () => Promise.resolve(),
};

export const agentEnrolment: ResourceKind = {
  token: 'tidemark:index:AgentEnrolment',
  description: 'A certificate for an agent, or for a person who drives agents; renewed by an update before it ends',
  schema: agentEnrolmentSchema,
  outputs: z.object(made),
  check: (inputs, before) =>
    unchanged(agentEnrolmentSchema, inputs, before, ['name'], 'declare another enrolment for another name'),

  /** It ends soon. */
  changes: (_urn, { expires, renewDays }) =>
    new Map(
      typeof expires === 'string' && Date.parse(expires) - Number(renewDays ?? 60) * dayMs < Date.now()
        ? [['days', 'update']]
        : [],
    ),

  async create(given, { preview }) {
    if (preview || !isKnown(given)) return { id: '', outputs: { ...given, ...unknownPair } };
    return { id: String(given['name']), outputs: await issue(given) };
  },
  async update(_id, _before, given, { preview }) {
    return preview || !isKnown(given) ? { ...given, ...unknownPair } : issue(given);
  },
  read: (id, before, inputs) => Promise.resolve(asItWas('a certificate', id, before, inputs)),
  delete: () => Promise.resolve(),
};

async function issue(given: Properties): Promise<Properties> {
  const { authority, name, hosts, days } = agentEnrolmentSchema.parse(given);
  const { issueCertificate } = await import('../../agent/src/pki/authority.js');
  return { ...given, ...pairOutputs(await issueCertificate(authority, name, { hosts, days })) };
}

function pairOutputs({ certificate, key }: { certificate: string; key: string }): Properties {
  return { certificate, key, expires: new X509Certificate(certificate).validToDate.toISOString() };
}

/** What only the state knows is as it was, and never gone. */
export function asItWas(
  what: string,
  id: string,
  before: Properties,
  inputs: Properties = {},
): { readonly state: State; readonly inputs: Properties } {
  if (Object.keys(before).length === 0) throw new Error(`It cannot be imported, ${what}: declare it.`);
  return { state: { id, outputs: before }, inputs };
}

/** Refusals of properties that a resource keeps for its life; a default that is written out is no change. */
export function unchanged(
  schema: z.ZodObject,
  inputs: Properties,
  before: Properties | undefined,
  names: readonly string[],
  why: string,
): Failure[] {
  if (before === undefined) return [];
  const [young, old] = [inputs, before].map((given) => {
    const parsed = schema.safeParse(given);
    return parsed.success ? (parsed.data as Properties) : undefined;
  });
  const [now, then] = young === undefined || old === undefined ? [inputs, before] : [young, old];
  return names
    .filter((name) => typeof now[name] !== 'symbol' && now[name] !== then[name])
    .map((name) => ({ property: name, reason: `it cannot change: ${why}` }));
}
