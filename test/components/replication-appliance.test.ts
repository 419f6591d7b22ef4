/** Appliances and what a source captures, with Pulumi's mocks: which resources are made, and of what. */
import { beforeAll, expect, test } from '@jest/globals';
import * as pulumi from '@pulumi/pulumi';
import { Authority, ProtectedApplication, ReplicationAppliance, Site, TargetJournal } from '../../components/index.js';
import {
  applianceSchema,
  sitePeeringSchema,
  sourceGroupResourceSchema,
  targetJournalSchema,
} from '../../components/provider/appliance-inputs.js';

const made: { type: string; name: string; inputs: Record<string, unknown> }[] = [];
const pem = '-----BEGIN CERTIFICATE-----\n';

beforeAll(async () => {
  await pulumi.runtime.setMocks({
    newResource: ({ type, name, inputs }) => {
      made.push({ type, name, inputs: inputs as Record<string, unknown> });
      const state = {
        ...{ certificate: pem, key: pem, expires: '' },
        ...inputs,
        ...{ api: `https://${name}:7440`, stream: `${name}:7441`, dataDirectory: '/srv/j/data', mountPoint: '/srv/j' },
        ...{ activeSite: 'amsterdam', addresses: {}, state: 'protecting' },
      };
      return { id: 'x', state };
    },
    call: ({ inputs }) => inputs,
  });
});

const value = <T>(output: pulumi.Output<T>): Promise<T> => new Promise((resolve) => output.apply(resolve));
const inputsOf = (type: string, name: string): Record<string, unknown> =>
  made.find((each) => each.type === `tidemark:index:${type}` && each.name === name)!.inputs;

/** Pulumi marks a secret by this property. */
const signature = '4dabf18193072939515e22adb298388d';
function plain(value: unknown): unknown {
  if (value === null || typeof value !== 'object') return value;
  if (signature in value) return plain((value as unknown as { value: unknown }).value);
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}

const host = { kind: 'ssh' as const, address: '10.0.0.1', hostKey: 'ssh-ed25519 AAAA', privateKey: 'canary' };
const libvirt = {
  hypervisor: 'local',
  settings: { hypervisors: [{ kind: 'libvirt' as const, name: 'local', uri: 'qemu:///system' }] },
};

test('two appliances, their peering, and an application that says what its source captures', async () => {
  const authority = new Authority('authority');
  const journal = new TargetJournal('journal', { host, directory: '/srv/j', device: '/dev/vdb' });
  const near = new ReplicationAppliance('near', { authority, site: 'amsterdam', host, ...libvirt });
  const far = new ReplicationAppliance('far', {
    authority,
    site: 'frankfurt',
    host,
    journal,
    peers: [near],
    ...libvirt,
  });
  const shop = new ProtectedApplication('shop', {
    ...{ source: near.site, target: far.site, rpoSeconds: 4, waitFor: 'synced' },
    vms: [{ name: 'db', disks: { vda: '20GiB' } }],
    disks: { data: { file: '/dev/vg/data', size: '1GiB' } },
  });
  await value(shop.state);
  await value(shop.capture!.policyRevision);

  targetJournalSchema.parse(plain(inputsOf('TargetJournal', 'journal')));
  const appliance = applianceSchema.parse(plain(inputsOf('Appliance', 'far')));
  expect(appliance).toMatchObject({
    ...{ agent: 'far', site: 'frankfurt', directory: '/opt/tidemark', dataDirectory: '/srv/j/data' },
    ...{ mountPoint: '/srv/j', operators: ['operator'] },
  });
  const { first, second } = sitePeeringSchema.parse(inputsOf('SitePeering', 'far-near'));
  expect([first.agent, second.agent]).toEqual(['near', 'far']);
  expect(first.connection.api).toBe('https://near:7440');
  const { capture, source, waitFor } = sourceGroupResourceSchema.parse(inputsOf('SourceGroup', 'shop'));
  expect(source.api).toBe('https://near:7440');
  expect(waitFor).toBe('synced');
  expect(capture).toMatchObject({
    targets: [{ peer: 'far' }],
    checkpointIntervalSeconds: 2,
    vms: [{ vm: 'db', hypervisor: 'local', disks: ['vda'] }],
    disks: [{ kind: 'in-path', name: 'data', file: '/dev/vg/data', sizeBytes: 1024 ** 3 }],
  });
  expect(inputsOf('Appliance', 'far')['key']).toHaveProperty(signature);
  for (const [type, name] of [
    ['Appliance', 'far'],
    ['TargetJournal', 'journal'],
  ] as const)
    expect(JSON.stringify(inputsOf(type, name)['host'])).toContain(signature);
});

test('the file of the source says what is captured when it is asked to', () => {
  const made = (more: object): ProtectedApplication =>
    new ProtectedApplication('other', {
      source: new Site('s', { site: 'amsterdam', agent: 'ams-1', connection: { api: 'https://ams-1:7440' } }),
      target: new Site('t', { site: 'frankfurt', agent: 'fra-1', connection: { api: 'https://fra-1:7440' } }),
      disks: { data: '1GiB' },
      ...more,
    });
  expect(made({ captureBy: 'file' }).capture).toBeUndefined();
  expect(() => made({})).toThrow('disks.data: which file at amsterdam it is');
});

test('an appliance on this machine needs a directory', () => {
  const authority = new Authority('more');
  expect(() => new ReplicationAppliance('here', { authority, site: 'a', host: { kind: 'this-machine' } })).toThrow(
    'directory',
  );
});
