/** What a recovery shows for itself. */
import { TidemarkError } from '../core/errors.js';
import type { NetworkFacts } from './driver.js';
import type { BootReport, VmPlan, VmSet } from './vm-set.js';

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
 * That the networks of a drill lead nowhere, by name: nothing is forwarded, the host has no address in them, and nothing but
 * VMs of the group's drills is plugged in. Throws `network-not-isolated`. `later`: one that is not made yet.
 */
export async function proveNetworks(
  vms: VmSet,
  plan: VmPlan,
  later?: string | null,
): Promise<Record<string, NetworkFacts>> {
  const { driver } = vms;
  const ours = await vms.owned(({ purpose }) => purpose === 'drill');
  const taps = new Set((await Promise.all(ours.map(({ uuid }) => driver.taps(uuid)))).flat());
  const facts: Record<string, NetworkFacts> = {};
  for (const name of await vms.networks(plan)) {
    if (name === later) continue;
    facts[name] = await driver.networkFacts(name);
    refuseWayOut(name, facts[name], taps);
  }
  return facts;
}

function refuseWayOut(
  network: string,
  { bridge, forward, hostAddresses, ports }: NetworkFacts,
  taps: ReadonlySet<string>,
): void {
  const strangers = ports.filter((port) => !taps.has(port) && port !== `${bridge}-nic`);
  const problem =
    forward !== 'none'
      ? `it forwards (${forward})`
      : hostAddresses.length > 0
        ? `the host has ${hostAddresses.join(', ')} in it`
        : strangers.length > 0
          ? `${strangers.join(', ')} is plugged into it`
          : undefined;
  if (problem === undefined) return;
  throw new TidemarkError('network-not-isolated', `Network ${network} is not isolated: ${problem}.`, {
    path: 'recovery.testNetwork',
  });
}

/** From the request to the return of the first start. */
export function firstBootMs(boots: readonly BootReport[]): number | null {
  const started = boots.flatMap(({ startedAfterMs }) => (startedAfterMs === null ? [] : [startedAfterMs]));
  return started.length === 0 ? null : Math.min(...started);
}
