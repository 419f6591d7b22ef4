/** Who a request comes from, and whether they may. */
import type { TLSSocket } from 'node:tls';
import type { FastifyRequest } from 'fastify';
import { TidemarkError } from '../core/errors.js';
import type { Role } from '../service/agent-schemas.js';
import type { Caller } from '../service/service.js';

/** Role of a certificate name, asked anew for each request, so that a reload takes effect at once. */
export type RoleLookup = (name: string) => Role | undefined;

/** The caller from the verified certificate. Throws `unauthorised` without one name, `forbidden` without a role. */
export function authenticate(request: FastifyRequest, roleOf: RoleLookup): Caller {
  const socket = request.raw.socket as TLSSocket;
  const name: unknown = socket.authorized ? socket.getPeerCertificate().subject?.CN : undefined;
  if (typeof name !== 'string' || name === '')
    throw new TidemarkError('unauthorised', 'the client certificate names nobody (one CN is needed)');
  const role = roleOf(name);
  if (role === undefined)
    throw new TidemarkError(
      'forbidden',
      `${name} has no role on this agent; list it under access in the configuration`,
    );
  return { name, role };
}

export function requireRole(caller: Caller, roles: readonly Role[]): void {
  if (!roles.includes(caller.role))
    throw new TidemarkError('forbidden', `${caller.name} is ${caller.role}; this needs ${roles.join(' or ')}`);
}
