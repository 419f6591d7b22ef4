/** What a recovery shows for itself. */
import { TidemarkError } from '../core/errors.js';
import type { NetworkFacts, RecoveryDriver } from './driver.js';
import type { BootReport } from './vm-set.js';

/** The checks that did not hold, in words; undefined: all is well. */
export function failedChecks(boots: readonly BootReport[]): string | undefined {
  const failed = boots.flatMap(({ vm, checks }) =>
    checks
      .filter(({ ok }) => !ok)
      .map(({ check, detail, tookMs }) => `${vm}: ${check} after ${Math.round(tookMs / 1000)} s: ${detail}`),
  );
  const waiting = boots.filter(({ startedAfterMs }) => startedAfterMs === null).map(({ vm }) => vm);
  if (failed.length === 0) return undefined;
  return `${failed.join('; ')}${waiting.length === 0 ? '' : `; not started: ${waiting.join(', ')}`}`;
}

/**
 * That the network of a drill leads nowhere: nothing is forwarded, the host has no address in it, and nothing but the
 * drill's own VMs is plugged in. Throws `network-not-isolated`.
 */
export async function proveIsolation(
  driver: RecoveryDriver,
  network: string,
  uuids: readonly string[],
): Promise<NetworkFacts> {
  const facts = await driver.networkFacts(network);
  const taps = new Set((await Promise.all(uuids.map((uuid) => driver.taps(uuid)))).flat());
  const strangers = facts.ports.filter((port) => !taps.has(port) && port !== `${facts.bridge}-nic`);
  const problem =
    facts.forward !== 'none'
      ? `it forwards (${facts.forward})`
      : facts.hostAddresses.length > 0
        ? `the host has ${facts.hostAddresses.join(', ')} in it`
        : strangers.length > 0
          ? `${strangers.join(', ')} is plugged into it`
          : undefined;
  if (problem === undefined) return facts;
  throw new TidemarkError('network-not-isolated', `Network ${network} is not isolated: ${problem}.`);
}

/** From the request to the return of the first start. */
export function firstBootMs(boots: readonly BootReport[]): number | null {
  const started = boots.flatMap(({ startedAfterMs }) => (startedAfterMs === null ? [] : [startedAfterMs]));
  return started.length === 0 ? null : Math.min(...started);
}
