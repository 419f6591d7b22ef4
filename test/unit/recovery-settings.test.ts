import { describe, expect, test } from '@jest/globals';
import { addressScript } from '../../agent/src/recovery/addresses.js';
import { targetGroupSpecSchema } from '../../agent/src/service/group-spec.js';
import { recoverySpecSchema } from '../../agent/src/service/recovery-spec.js';

const paths = (recovery: unknown): string[] => {
  const result = recoverySpecSchema.safeParse(recovery);
  return result.success ? [] : result.error.issues.map(({ path }) => path.join('.'));
};

describe('settings of recovery', () => {
  test('what is left out has a default', () => {
    expect(recoverySpecSchema.parse({ hypervisor: 'local', vms: [{ vm: 'db' }] })).toEqual({
      hypervisor: 'local',
      vms: [
        {
          vm: 'db',
          wave: 1,
          delaySeconds: 0,
          hooks: [],
          readiness: [],
          networks: [],
          mac: 'keep',
          addresses: [],
          addressesBy: 'guest-agent',
        },
      ],
      testNetwork: 'isolated',
      uncommittedHours: 24,
      afterwards: 'remind',
    });
  });

  test.each([
    [{ vms: [{ vm: 'db' }, { vm: 'db' }] }, 'vms.1.vm'],
    [{ vms: [{ vm: 'db', wave: 0 }] }, 'vms.0.wave'],
    [{ vms: [] }, 'vms'],
    [
      {
        vms: [
          {
            vm: 'db',
            networks: [
              { from: 'a', live: 'b' },
              { from: 'a', live: 'c' },
            ],
          },
        ],
      },
      'vms.0.networks',
    ],
    [{ vms: [{ vm: 'db', networks: [{ from: 'a', live: 'bridge:' }] }] }, 'vms.0.networks.0.live'],
    [{ vms: [{ vm: 'db', readiness: [{ kind: 'tcp', port: 70_000 }] }] }, 'vms.0.readiness.0.port'],
    [{ vms: [{ vm: 'db', readiness: [{ kind: 'http', url: 'file:///etc/passwd' }] }] }, 'vms.0.readiness.0.url'],
    [
      { vms: [{ vm: 'db', addresses: [{ nic: 0, live: { addresses: ['10.0.0.300/24'] } }] }] },
      'vms.0.addresses.0.live',
    ],
    [{ vms: [{ vm: 'db', addresses: [{ nic: 0, live: { addresses: ['10.0.0.1/33'] } }] }] }, 'vms.0.addresses.0.live'],
    [{ vms: [{ vm: 'db' }], afterwards: 'shrug' }, 'afterwards'],
  ])('%j is wrong at %s', (wrong, path) => {
    expect(paths({ hypervisor: 'local', ...wrong }).map((found) => found.slice(0, path.length))).toContain(path);
  });

  test('a group without recovery recovers disks alone', () => {
    const spec = { streams: ['a'], disks: [{ name: 'd', sizeBytes: 512, stream: 'a' }] };
    expect(targetGroupSpecSchema.parse(spec).recovery).toBeUndefined();
  });
});

describe('addresses of a guest', () => {
  test('static ones of both families', () => {
    const script = addressScript({
      addresses: ['10.9.0.5/24', '2001:db8::5/64'],
      gateways: ['10.9.0.1', '2001:db8::1'],
      dns: ['10.9.0.2'],
    });
    expect(script).toContain('ip addr add 10.9.0.5/24 dev "$nic"');
    expect(script).toContain('ip addr add 2001:db8::5/64 dev "$nic" nodad');
    expect(script).toContain('ip route replace default via 10.9.0.1 dev "$nic"');
    expect(script).toContain('ip -6 route replace default via 2001:db8::1 dev "$nic"');
    expect(script).toContain("'nameserver 10.9.0.2'");
  });

  test('keep changes nothing', () => {
    expect(addressScript('keep')).toBeUndefined();
    expect(addressScript('dhcp')).toContain('dhclient');
  });
});
