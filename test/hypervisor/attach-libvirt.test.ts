/** Capture of running VMs on a libvirt of the test's own: discovery, attach, the life of a VM. */
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { writeCountingDisk } from '../support/counting-guest.js';
import { Laboratory } from '../support/laboratory.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const longMs = 240_000;
const group = 'erp';
const diskBytes = 16 * MiB;

/** A guest that counts on vda; beside it what can be captured (vdb) and what cannot. */
async function defineCounter(lab: Laboratory, libvirt: PrivateLibvirt, uuid: string): Promise<string> {
  const files = {
    vda: lab.path('vda.raw'),
    vdb: lab.path('vdb.qcow2'),
    vdc: lab.path('vdc.raw'),
    cd: lab.path('cd.iso'),
  };
  writeCountingDisk(files.vda, diskBytes);
  await lab.processes.run('qemu-img', ['create', '-q', '-f', 'qcow2', files.vdb, String(diskBytes)]);
  await lab.processes.run('truncate', ['-s', String(diskBytes), files.vdc]);
  writeFileSync(files.cd, 'cloud-init');
  const disk = (target: string, format: string, file: string, more = ''): string =>
    `<disk type='file' device='disk'><driver name='qemu' type='${format}'/><source file='${file}'/>` +
    `<target dev='${target}' bus='virtio'/>${more}</disk>`;
  const xml = `<domain type='qemu'><name>counter</name><uuid>${uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
    <devices>${disk('vda', 'raw', files.vda)}${disk('vdb', 'qcow2', files.vdb)}
    ${disk('vdc', 'raw', files.vdc, '<shareable/>')}
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='${files.cd}'/>
    <target dev='sda' bus='sata'/><readonly/></disk><memballoon model='none'/></devices></domain>`;
  const file = lab.path('counter.xml');
  writeFileSync(file, xml);
  await libvirt.virsh.run(['define', file]);
  return files.vda;
}

async function countIn(uri: string): Promise<number> {
  const client = await NbdClient.open(uri, { clock: nodeClock });
  try {
    const sector = Buffer.alloc(512);
    await client.read(sector, 512);
    return sector.readUInt32LE(0);
  } finally {
    await client.close();
  }
}

/** The counter in the newest complete checkpoint that was made after the call. */
async function newestCount(target: AgentHandle): Promise<number> {
  const sinceMs = Date.now();
  const { id } = await waitFor('a new complete checkpoint', async () => {
    const newest = (await target.client.group(group)).newestCheckpoint;
    return newest !== null && newest.sourceTimeMs > sinceMs ? newest : undefined;
  });
  const view = await target.client.openView(group, {
    id: `view-${id}`,
    at: { by: 'id', checkpoint: id },
    purpose: 'browse',
  });
  const count = await countIn(view.disks.find(({ name }) => name === 'counter-vda')!.uri);
  await target.client.closeView(group, view.id, { force: true });
  return count;
}

describe('libvirt', () => {
  test(
    'a VM is found, attached while it runs, followed through stop and start, and travels with its definition',
    async () => {
      await using lab = await Laboratory.open();
      await using libvirt = await PrivateLibvirt.start(lab.processes, lab.path('lv'), 'lv');
      const uuid = randomUUID();
      const vda = await defineCounter(lab, libvirt, uuid);
      await libvirt.virsh.run(['start', 'counter']);
      const disks = ['vda', 'vdb'].map((name) => ({ name: `counter-${name}`, sizeBytes: diskBytes, stream: 'source' }));
      const target = await lab.startAgent('target', {
        peers: [{ name: 'source' }],
        targetGroups: [{ name: group, streams: ['source'], disks, checkpointIntervalSeconds: 1 }],
      });
      const source = await lab.startAgent('source', {
        peers: [{ name: 'target', address: target.addresses.stream }],
        hypervisors: [{ name: 'local', kind: 'libvirt', uri: libvirt.uri }],
        sourceGroups: [
          {
            name: group,
            targets: [{ peer: 'target' }],
            checkpointIntervalSeconds: 1,
            vms: [{ vm: 'counter', hypervisor: 'local' }],
          },
        ],
      });
      const first = await newestCount(target);
      expect(first).toBeGreaterThan(0);
      expect(await newestCount(target)).toBeGreaterThan(first);
      const { vms } = await source.client.vms('local');
      expect(vms[0]?.disks.map((disk) => [disk.target, disk.disk, disk.refusal])).toEqual([
        ['vda', 'counter-vda', null],
        ['vdb', 'counter-vdb', null],
        ['vdc', null, expect.stringContaining('shared')],
        ['sda', null, 'a cdrom'],
      ]);

      // libvirtd dies and comes back: the mirror does not care.
      await libvirt.killDaemon();
      expect(await newestCount(target)).toBeGreaterThan(first);
      await libvirt.startDaemon();

      await libvirt.virsh.run(['destroy', 'counter']);
      await waitFor('seen off', async () => (await source.client.group(group)).vms?.[0]?.state === 'off');
      const last = await newestCount(target);
      expect(last).toBe(readFileSync(vda).readUInt32LE(512));

      await libvirt.virsh.run(['start', 'counter']);
      await waitFor('attached again', async () => (await source.client.group(group)).vms?.[0]?.state === 'attached');
      expect(await newestCount(target)).toBeGreaterThan(last);
    },
    longMs,
  );
});
