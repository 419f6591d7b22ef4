import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { AgentHandle } from '../support/agent-handle.js';
import { writeCountingDisk } from '../support/counting-guest.js';
import { Laboratory } from '../support/laboratory.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const uuid = '2f9c1d1e-6a77-4f0e-9a51-7be8a4a0c0de';
const sizes = { 'count-vda': 16 * MiB };

describe('a running VM, protected at one libvirt and recovered at another', () => {
  let lab: Laboratory;
  let here: PrivateLibvirt;
  let there: PrivateLibvirt;
  let source: AgentHandle;
  let target: AgentHandle;
  let log: string;

  beforeAll(async () => {
    lab = await Laboratory.open();
    here = await PrivateLibvirt.start(lab.processes, join(lab.directory, 'a'), 'libvirt-a');
    there = await PrivateLibvirt.start(lab.processes, join(lab.directory, 'b'), 'libvirt-b');
    const network = lab.path('lan.xml');
    writeFileSync(network, "<network><name>lan</name><bridge stp='off' delay='0'/></network>");
    for (const libvirt of [here, there]) await libvirt.virsh.run(['net-create', network]);
    const disk = lab.path('source.raw');
    log = lab.path('source-serial.log');
    writeCountingDisk(disk, sizes['count-vda']);
    const xml = lab.path('vm.xml');
    writeFileSync(
      xml,
      `<domain type='qemu'><name>count</name><uuid>${uuid}</uuid><memory unit='MiB'>64</memory>
      <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
      <devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
      <interface type='network'><mac address='52:54:00:aa:bb:01'/><source network='lan'/></interface>
      <serial type='file'><source path='${log}'/></serial></devices></domain>`,
    );
    await here.virsh.run(['define', xml]);
    await here.virsh.run(['start', 'count']);

    target = await lab.startAgent('target', {
      peers: [{ name: 'source' }],
      hypervisors: [{ name: 'local', kind: 'libvirt', uri: there.uri }],
      targetGroups: [
        {
          name: 'shop',
          streams: ['source'],
          disks: Object.entries(sizes).map(([name, sizeBytes]) => ({ name, sizeBytes, stream: 'source' })),
          checkpointIntervalSeconds: 1,
          recovery: { hypervisor: 'local', vms: [{ vm: 'count' }] },
        },
      ],
    });
    source = await lab.startAgent('source', {
      peers: [{ name: 'target', address: target.addresses.stream }],
      hypervisors: [{ name: 'local', kind: 'libvirt', uri: here.uri }],
      sourceGroups: [
        {
          name: 'shop',
          targets: [{ peer: 'target' }],
          checkpointIntervalSeconds: 1,
          vms: [{ vm: 'count', hypervisor: 'local' }],
          fencing: 'isolate',
        },
      ],
    });
    await protecting();
  }, 180_000);
  afterAll(async () => {
    await source?.stop();
    await target?.stop();
    await here?.[Symbol.asyncDispose]();
    await there?.[Symbol.asyncDispose]();
    await lab?.close();
  }, 60_000);

  const protecting = (): Promise<unknown> =>
    waitFor(
      'a complete checkpoint that names the definition',
      async () => {
        const { state, newestCheckpoint } = await target.client.group('shop');
        return state === 'protecting' && newestCheckpoint?.attributes['definitions'] !== undefined;
      },
      { timeoutMs: 90_000, everyMs: 200 },
    );

  const run = async (
    id: string,
    kind: 'drill' | 'failover' | 'rollback',
    args: object,
  ): Promise<Record<string, unknown>> => {
    await target.client.startOperation(id, { kind, group: 'shop', arguments: args } as never);
    const done = await target.client.waitOperation(id, () => undefined, AbortSignal.timeout(90_000));
    expect(done.state).toBe('succeeded');
    return done.result!;
  };

  const said = async (): Promise<number> => {
    const path = /<source path='([^']*serial0.log)'/.exec(await there.virsh.run(['dumpxml', 'count']))?.[1];
    const text = readFileSync(path!, 'utf8');
    expect(text).not.toContain('E');
    return text.length;
  };

  const link = async (): Promise<string> =>
    /<link state='(\w+)'/.exec(await here.virsh.run(['dumpxml', 'count']))?.[1] ?? 'up';

  test('drill, failover with the source fenced, rollback, protection again', async () => {
    const drill = await run('drill', 'drill', { at: { by: 'latest' }, keepMinutes: 0 });
    expect(drill).toMatchObject({ passed: true, isolation: { forward: 'none' } });
    expect(await there.list('--all')).toEqual([]);

    const counted = readFileSync(log, 'utf8').length;
    const failover = await run('failover', 'failover', { at: { by: 'latest' }, sourceMayBeAlive: true });
    expect(failover['firstBootMs']).toBeLessThan(4000);
    await waitFor('the source VM is off its network', async () => (await link()) === 'down', { timeoutMs: 30_000 });
    const { alerts } = await source.client.group('shop');
    expect(alerts.map(({ message }) => message).join()).toMatch(/orphan-shop-.* holds what no target has/);
    const before = await said();
    await waitFor('the recovered VM counts', async () => (await said()) > before + 5, { timeoutMs: 60_000 });

    await run('rollback', 'rollback', { keepHours: 1 });
    expect(await there.list('--all')).toEqual([]);
    await waitFor('the source VM has its network back', async () => (await link()) === 'up', { timeoutMs: 60_000 });
    await protecting();
    // The guest at the source never stopped.
    expect(readFileSync(log, 'utf8').length).toBeGreaterThan(counted);
    expect(readFileSync(log, 'utf8')).not.toContain('E');
  }, 240_000);
});
