/** Gives a recovered Linux guest its addresses, through its agent: what the kernel has now, until the guest changes it. */
import { isIP } from 'node:net';
import { TidemarkError } from '../core/errors.js';
import type { Addressing } from '../service/recovery-spec.js';
import { runInGuest, type Guest } from './guest.js';

const timeoutMs = 60_000;

/** Finds the NIC by its MAC address; $1 MAC, then what to do. */
const findNic =
  'mac=$1; shift; for each in /sys/class/net/*; do if [ "$(cat "$each/address")" = "$mac" ]; then nic=${each##*/}; fi; done; ' +
  '[ -n "$nic" ] || { echo "no NIC has $mac" >&2; exit 3; }; set -e; ';

/** Shell words of the change; undefined: nothing is to be done. */
export function addressScript(addressing: Addressing): string | undefined {
  if (addressing === 'keep') return undefined;
  if (addressing === 'dhcp')
    return `${findNic}ip addr flush dev "$nic" scope global; ip link set "$nic" up; if command -v dhclient >/dev/null; then exec dhclient "$nic"; fi; if command -v udhcpc >/dev/null; then exec udhcpc -n -q -i "$nic"; fi; exec networkctl renew "$nic"`;
  const family = (address: string): string => (isIP(address) === 6 ? '-6 ' : '');
  const lines = [
    'ip addr flush dev "$nic" scope global',
    'ip link set "$nic" up',
    // An address is usable at once: nobody else has it in a network that we were told to use.
    ...addressing.addresses.map((address) => {
      const flags = isIP(address.split('/')[0]!) === 6 ? ' nodad' : '';
      return `ip addr add ${address} dev "$nic"${flags}`;
    }),
    ...addressing.gateways.map((gateway) => `ip ${family(gateway)}route replace default via ${gateway} dev "$nic"`),
    ...(addressing.dns.length === 0
      ? []
      : [`printf '%s\\n' ${addressing.dns.map((server) => `'nameserver ${server}'`).join(' ')} > /etc/resolv.conf`]),
  ];
  return findNic + lines.join('; ');
}

/** Throws `guest-agent` with what the guest said. */
export async function setAddresses(
  guest: Guest,
  mac: string,
  addressing: Addressing,
  signal: AbortSignal,
): Promise<void> {
  const script = addressScript(addressing);
  if (script === undefined) return;
  const { exitCode, output } = await runInGuest(
    guest,
    ['/bin/sh', '-c', script, 'address', mac.toLowerCase()],
    timeoutMs,
    signal,
  );
  if (exitCode !== 0)
    throw new TidemarkError('guest-agent', `Addresses of ${mac} could not be set (${exitCode}): ${output.trim()}`);
}
