/**
 * Gives a recovered guest its addresses by cloud-init: the NoCloud medium that its VM carries is made anew, with a
 * network configuration that finds each NIC by its MAC address. cloud-init takes one up only for an instance that it does
 * not know, so the medium names a new instance, and says beside it that host keys, users, passwords and the name stay.
 */
import { isIP } from 'node:net';
import type { Addressing } from '../service/recovery-spec.js';
import { isoImage, mediumLabel } from './iso-image.js';

export interface SeedNic {
  readonly mac: string;
  /** In the guest; it is renamed to that. Undefined: found by its MAC address alone. */
  readonly name?: string | undefined;
  readonly addressing: Exclude<Addressing, 'keep'>;
}

/** Label by which cloud-init finds its medium. */
const seedLabel = 'cidata';

/** What a new instance would be made anew of, left as the guest has it. Nothing of the old user-data: its commands would run again. */
const keepAll = { ssh_deletekeys: false, preserve_hostname: true, users: [] };

/** True when cloud-init reads the medium as its NoCloud seed. */
export function isSeed(medium: Buffer): boolean {
  return mediumLabel(medium)?.toLowerCase() === seedLabel;
}

/** The medium. `instance`: stays the same as long as nothing is to be set again. */
export function cloudInitSeed(instance: string, nics: readonly SeedNic[]): Buffer {
  const file = (name: string, value: unknown, head = ''): { name: string; content: Buffer } => ({
    name,
    // JSON is YAML.
    content: Buffer.from(`${head}${JSON.stringify(value, null, 2)}\n`),
  });
  return isoImage(seedLabel, [
    file('meta-data', { 'instance-id': instance }),
    file('network-config', networkConfig(nics)),
    file('user-data', keepAll, '#cloud-config\n'),
  ]);
}

/** Version 2 as every renderer of cloud-init 22.4 takes it: `routes` to `::/0` become `::/64` in two of them, `gateway6` does not. */
function networkConfig(nics: readonly SeedNic[]): unknown {
  return {
    version: 2,
    ethernets: Object.fromEntries(
      nics.map(({ mac, name, addressing }, index) => [
        name ?? `nic${index}`,
        {
          match: { macaddress: mac.toLowerCase() },
          ...(name === undefined ? {} : { 'set-name': name }),
          ...settings(addressing),
        },
      ]),
    ),
  };
}

function settings(addressing: SeedNic['addressing']): object {
  if (addressing === 'dhcp') return { dhcp4: true };
  const { addresses, gateways, dns } = addressing;
  return {
    dhcp4: false,
    addresses,
    ...Object.fromEntries(gateways.map((gateway) => [`gateway${isIP(gateway)}`, gateway])),
    ...(dns.length === 0 ? {} : { nameservers: { addresses: dns } }),
  };
}
