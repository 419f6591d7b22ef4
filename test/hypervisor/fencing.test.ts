import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { libvirtFencing } from '../../agent/src/fencing/fenced-vm.js';
import { FenceRecords, type FencingPolicy } from '../../agent/src/fencing/fence-record.js';
import { hookScript } from '../../agent/src/fencing/hook-script.js';
import { SourceFences } from '../../agent/src/fencing/source-fences.js';
import { openHypervisor } from '../../agent/src/hypervisor/open-hypervisor.js';
import type { LinkStatus } from '../../agent/src/link/link-status.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import { writeCountingDisk } from '../support/counting-guest.js';
import { Laboratory } from '../support/laboratory.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';

describe('fencing of stale VMs on libvirt', () => {
  let lab: Laboratory;
  let libvirt: PrivateLibvirt;
  let policy: FencingPolicy = 'isolate';
  let state: 'streaming' | 'fenced' = 'streaming';
  const events: { code: string; fields: Readonly<Record<string, unknown>> }[] = [];

  beforeAll(async () => {
    lab = await Laboratory.open();
    const directory = join(lab.directory, 'v');
    const hooks = join(directory, 'etc', 'hooks', 'qemu.d');
    mkdirSync(hooks, { recursive: true });
    writeFileSync(join(hooks, 'tidemark'), hookScript(lab.path('fenced')));
    chmodSync(join(hooks, 'tidemark'), 0o755);
    libvirt = await PrivateLibvirt.start(lab.processes, directory);
    const disk = lab.path('disk.raw');
    writeCountingDisk(disk, 1024 * 1024);
    const xml = lab.path('vm.xml');
    writeFileSync(
      xml,
      `<domain type='qemu'><name>count</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>
      <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${disk}'/><target dev='vda'/></disk>
      <interface type='network'><source network='lan'/></interface></devices></domain>`,
    );
    const network = lab.path('lan.xml');
    writeFileSync(network, "<network><name>lan</name><bridge stp='off' delay='0'/></network>");
    await libvirt.virsh.run(['net-create', network]);
    await libvirt.virsh.run(['define', xml]);
  }, 60_000);
  afterAll(async () => {
    await libvirt?.[Symbol.asyncDispose]();
    await lab?.close();
  });

  const open = async (): Promise<SourceFences> => {
    const hypervisor = openHypervisor({ name: 'local', kind: 'libvirt', uri: libvirt.uri }, nodeClock);
    const fences = new SourceFences({
      records: new FenceRecords(new NodeStorage(), lab.path('fenced')),
      clock: nodeClock,
      events: { emit: (code, fields) => void events.push({ code, fields }) },
      groups: () => [
        {
          name: 'shop',
          sourceTimeMs: 10_000,
          vms: [
            { vm: 'count', hypervisor: 'local' },
            { vm: 'gone', hypervisor: 'local' },
          ],
          links: [
            {
              ...{ state, connected: state === 'streaming', unsentBytes: 4096, dirtyBytes: 512 },
              ...{
                durableCheckpointMs: 7500,
                durableCheckpointId: 'abc',
                refusal: { code: 'stale-epoch', message: 'epoch 2' },
              },
            } as LinkStatus,
          ],
        },
      ],
      policyOf: () => policy,
      driver: () => libvirtFencing(hypervisor, libvirt.virsh),
    });
    await fences.load();
    return fences;
  };

  const linkState = async (): Promise<string | undefined> =>
    /<link state='(\w+)'/.exec(await libvirt.virsh.run(['dumpxml', 'count']))?.[1];

  test('isolate: off its network, the orphan is named, a start is refused, also after a restart of the agent', async () => {
    await libvirt.virsh.run(['start', 'count']);
    const fences = await open();
    await fences.round();
    expect(fences.get('shop')).toBeUndefined();
    state = 'fenced';
    await fences.round();
    expect(await linkState()).toBe('down');
    expect(fences.get('shop')?.orphan).toMatchObject({ seconds: 2.5, bytes: 4608, checkpoint: 'abc' });
    expect(fences.alertsOf('shop')[0]?.message).toMatch(/2.5 s, 4608 bytes/);
    expect(events.map(({ code }) => code)).toEqual(['source-fenced']);
    await libvirt.virsh.run(['destroy', 'count']);
    expect((await open()).get('shop')).toEqual(fences.get('shop'));
    await expect(libvirt.virsh.run(['start', 'count'])).rejects.toThrow(/failed over to the other site/);
  });

  test('taken back by the target: the network comes back, a start is allowed', async () => {
    state = 'streaming';
    const fences = await open();
    await fences.round();
    expect(fences.get('shop')).toBeUndefined();
    await libvirt.virsh.run(['start', 'count']);
    expect(await linkState()).not.toBe('down');
    state = 'fenced';
    await fences.round();
    expect(await linkState()).toBe('down');
    state = 'streaming';
    await fences.round();
    expect(await linkState()).toBe('up');
  });

  test('stop: the VM is ended; leave: nothing happens and a start is allowed', async () => {
    policy = 'leave';
    state = 'fenced';
    const leaving = await open();
    await leaving.round();
    expect(await linkState()).toBe('up');
    state = 'streaming';
    await leaving.round();
    policy = 'stop';
    state = 'fenced';
    const fences = await open();
    await fences.round();
    expect(await libvirt.list()).toEqual([]);
    await expect(libvirt.virsh.run(['start', 'count'])).rejects.toThrow(/failed over/);
  });
});
