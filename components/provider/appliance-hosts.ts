/** What the resources on hosts have in common: a host keeps being the same machine, and a dead one holds nothing up. */
import type { TidemarkError } from '../agent-client.js';
import { hostSchema, identityOf } from '../appliance/open-host.js';
import type { Failure } from './check.js';
import type { Call } from './resource.js';
import type { Properties } from './values.js';

/** Address and login may change, the machine may not. */
export function hostChanged(inputs: Properties, before: Properties | undefined): Failure[] {
  const old = hostSchema.safeParse(before?.['host']);
  const young = hostSchema.safeParse(inputs['host']);
  if (!old.success || !young.success || identityOf(old.data) === identityOf(young.data)) return [];
  const property = young.data.kind === old.data.kind ? 'host.hostKey' : 'host.kind';
  return [{ property, reason: 'another machine: what is on the old one would be left; declare another resource' }];
}

/** On destroy: throws what must not be passed over, and warns of what is. */
export async function hostGone(error: TidemarkError, forceDestroy: boolean, what: string, call: Call): Promise<void> {
  const isGone = error.code === 'host-unreachable';
  if (!isGone && !(forceDestroy && error.code === 'host-key-mismatch')) throw error;
  await call.tell.say('warning', `Forgotten as it is, ${what}: ${error.message} [${error.code}]`);
}
