/**
 * Who a group belongs to: the URN of its resource and a token of its create, `URN#TOKEN`. A replacement that the engine
 * was forced to make creates before it deletes; by its token the delete of the old one is known, and leaves the group.
 */
import { randomBytes } from 'node:crypto';

export function newOwner(urn: string): string {
  return `${urn}#${randomBytes(4).toString('hex')}`;
}

export function urnOf(owner: string): string {
  return owner.replace(/#[0-9a-f]{8}$/, '');
}

/** The owner of a resource that has another URN now (an alias), or was imported. */
export function renamed(owner: string, urn: string): string {
  const token = /#[0-9a-f]{8}$/.exec(owner)?.[0];
  return token === undefined ? newOwner(urn) : `${urn}${token}`;
}
