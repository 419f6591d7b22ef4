/** The components with Pulumi's mocks: which resources they make, and of what. */
import { beforeAll, expect, test } from '@jest/globals';
import * as pulumi from '@pulumi/pulumi';
import { ProtectedApplication, Site } from '../../components/index.js';
import { protectionGroupSchema } from '../../components/provider/inputs.js';

const made: { type: string; name: string; inputs: Record<string, unknown> }[] = [];

beforeAll(async () => {
  await pulumi.runtime.setMocks({
    newResource: ({ type, name, inputs }) => {
      made.push({ type, name, inputs: inputs as Record<string, unknown> });
      return { id: 'x', state: { ...inputs, activeSite: 'amsterdam', addresses: {}, state: 'protecting' } };
    },
    call: ({ inputs }) => inputs,
  });
});

const value = <T>(output: pulumi.Output<T>): Promise<T> => new Promise((resolve) => output.apply(resolve));

const source = (): Site => new Site('ams', { site: 'amsterdam', agent: 'ams-1' });
const target = (): Site =>
  new Site('fra', {
    site: 'frankfurt',
    agent: 'fra-1',
    connection: { api: 'https://fra-1:7440' },
    hypervisor: 'local',
  });

test('VMs become one group whose inputs pass the check', async () => {
  const shop = new ProtectedApplication('shop', {
    source: source(),
    target: target(),
    vms: [
      { name: 'db', disks: { vda: '20GiB', vdb: 1 << 30 }, wave: 1, sourceAddresses: ['192.0.2.1'] },
      { name: 'web', disks: { vda: '8GiB' }, wave: 2, readiness: [{ kind: 'tcp', port: 443 }] },
    ],
    rpoSeconds: 20,
  });
  expect(await value(shop.activeSite)).toBe('amsterdam');
  const group = made.find(({ type, name }) => type === 'tidemark:index:ProtectionGroup' && name === 'shop')!;
  const checked = protectionGroupSchema.parse(group.inputs);
  expect(checked.policy.disks.map(({ name, stream }) => `${stream}/${name}`)).toEqual([
    ...['ams-1/db-vda', 'ams-1/db-vdb', 'ams-1/web-vda'],
  ]);
  expect(checked.policy.checkpointIntervalSeconds).toBe(10);
  expect(checked.policy.recovery?.vms.map(({ vm, wave }) => [vm, wave])).toEqual([
    ['db', 1],
    ['web', 2],
  ]);
  expect(checked).toMatchObject({ sourceSite: 'amsterdam', sourceAddresses: { db: ['192.0.2.1'] } });
});

test('what a site lacks is said with its path', () => {
  const lonely = new Site('mars', { site: 'mars', agent: 'mars-1' });
  expect(() => new ProtectedApplication('a', { source: source(), target: lonely, disks: { data: 512 } })).toThrow(
    'target.connection',
  );
  const bare = new Site('pluto', { site: 'pluto', agent: 'pluto-1', connection: { api: 'https://pluto:1' } });
  expect(
    () => new ProtectedApplication('b', { source: source(), target: bare, vms: [{ name: 'db', disks: { vda: 512 } }] }),
  ).toThrow('target.hypervisor');
});
