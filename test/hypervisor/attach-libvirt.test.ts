/** Capture of running VMs on a libvirt of the test's own: discovery, attach, the life of a VM. */
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { tidemark, tidemarkJson } from '../e2e/cli.js';
import type { AgentHandle, AgentSettings } from '../support/agent-handle.js';
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
    vdd: lab.path('vdd.raw'),
    cd: lab.path('cd.iso'),
  };
  const blank = (file: string): Promise<unknown> => lab.processes.run('truncate', ['-s', String(diskBytes), file]);
  writeCountingDisk(files.vda, diskBytes);
  await lab.processes.run('qemu-img', ['create', '-q', '-f', 'qcow2', files.vdb, String(diskBytes)]);
  await blank(files.vdc);
  await blank(files.vdd);
  writeFileSync(files.cd, 'cloud-init');
  const disk = (target: string, format: string, file: string, more = ''): string =>
    `<disk type='file' device='disk'><driver name='qemu' type='${format}'/><source file='${file}'/>` +
    `<target dev='${target}' bus='virtio'/>${more}</disk>`;
  const xml = `<domain type='qemu'><name>counter</name><uuid>${uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
    <devices>${disk('vda', 'raw', files.vda)}${disk('vdb', 'qcow2', files.vdb)}
    ${disk('vdc', 'raw', files.vdc, '<shareable/>')}
    ${disk('vdd', 'raw', files.vdd, '<readonly/>')}
    <controller type='scsi' model='virtio-scsi'/>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='${files.cd}'/>
    <target dev='sda' bus='sata'/><readonly/></disk><memballoon model='none'/></devices></domain>`;
  const file = lab.path('counter.xml');
  writeFileSync(file, xml);
  await libvirt.virsh.run(['define', file]);
  return files.vda;
}

/** A VM that nobody selected. */
function otherXml(disk: string): string {
  return `<domain type='qemu'><name>other</name><memory unit='MiB'>32</memory>
    <os><type arch='x86_64' machine='q35'>hvm</type></os>
    <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${disk}'/>
    <target dev='vda' bus='virtio'/></disk></devices></domain>`;
}

/** A VM that runs nowhere: with a device that the guest talks to by itself, and a TPM. */
function oddXml(disk: string): string {
  return `<domain type='qemu'><name>odd</name><memory unit='MiB'>32</memory>
    <os><type arch='x86_64' machine='q35'>hvm</type></os>
    <devices><controller type='scsi' model='virtio-scsi'/>
    <disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/null'/><target dev='sdb' bus='scsi'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
    <tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm></devices></domain>`;
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

/** Names of the jobs, in order. */
function deviceNames(jobs: unknown): string[] {
  return (jobs as { device: string }[]).map(({ device }) => device).sort();
}

describe('a VM on libvirt', () => {
  let lab: Laboratory;
  let libvirt: PrivateLibvirt;
  let target: AgentHandle;
  let source: AgentHandle;
  let vda: string;

  const settings = (more: readonly Readonly<Record<string, unknown>>[] = []): AgentSettings => ({
    peers: [{ name: 'target', address: target.addresses.stream }],
    hypervisors: [
      { name: 'local', kind: 'libvirt', uri: libvirt.uri },
      { name: 'gone', kind: 'libvirt', uri: `qemu+unix:///system?socket=${lab.path('nobody')}` },
    ],
    sourceGroups: [{ name: group, vms: [{ vm: 'counter', hypervisor: 'local' }] }, ...more].map((each) => ({
      targets: [{ peer: 'target' }],
      checkpointIntervalSeconds: 1,
      ...each,
    })) as NonNullable<AgentSettings['sourceGroups']>,
  });

  beforeAll(async () => {
    lab = await Laboratory.open();
    libvirt = await PrivateLibvirt.start(lab.processes, lab.path('lv'), 'lv');
    vda = await defineCounter(lab, libvirt, randomUUID());
    await libvirt.virsh.run(['start', 'counter']);
    writeCountingDisk(lab.path('other.raw'), MiB);
    writeFileSync(lab.path('other.xml'), otherXml(lab.path('other.raw')));
    await libvirt.virsh.run(['create', lab.path('other.xml')]);
    const disks = ['vda', 'vdb'].map((name) => ({ name: `counter-${name}`, sizeBytes: diskBytes, stream: 'source' }));
    target = await lab.startAgent('target', {
      peers: [{ name: 'source' }],
      targetGroups: [{ name: group, streams: ['source'], disks, checkpointIntervalSeconds: 1 }],
    });
    source = await lab.startAgent('source', settings());
  }, longMs);
  afterAll(async () => {
    await libvirt?.[Symbol.asyncDispose]();
    await lab?.close();
  });

  const vmState = async (): Promise<string | undefined> => (await source.client.group(group)).vms?.[0]?.state;
  const attached = (): Promise<unknown> => waitFor('attached', async () => (await vmState()) === 'attached');

  const monitor = async (command: object): Promise<unknown> =>
    (
      JSON.parse(await libvirt.virsh.run(['qemu-monitor-command', 'counter', JSON.stringify(command)])) as {
        return: unknown;
      }
    ).return;

  const bitmapsOfVda = async (): Promise<string[]> => {
    const nodes = (await monitor({ execute: 'query-named-block-nodes', arguments: { flat: true } })) as {
      file: string;
      'dirty-bitmaps'?: { name: string }[];
    }[];
    return nodes
      .filter(({ file }) => file === vda)
      .flatMap((node) => (node['dirty-bitmaps'] ?? []).map(({ name }) => name));
  };

  test(
    'is found, attached while it runs, followed through stop and start',
    async () => {
      const first = await newestCount(target);
      expect(first).toBeGreaterThan(0);
      expect(await newestCount(target)).toBeGreaterThan(first);
      const { vms } = await source.client.vms('local');
      expect(vms[0]?.disks.map((disk) => [disk.target, disk.disk, disk.refusal])).toEqual([
        ['vda', 'counter-vda', null],
        ['vdb', 'counter-vdb', null],
        ['vdc', null, expect.stringContaining('shared')],
        ['vdd', null, 'read-only'],
        ['sda', null, 'a cdrom'],
      ]);

      // libvirtd dies and comes back: the mirror does not care.
      await libvirt.killDaemon();
      expect(await newestCount(target)).toBeGreaterThan(first);
      await libvirt.startDaemon();

      await libvirt.virsh.run(['destroy', 'counter']);
      await waitFor('seen off', async () => (await vmState()) === 'off');
      const last = await newestCount(target);
      expect(last).toBe(readFileSync(vda).readUInt32LE(512));

      await libvirt.virsh.run(['start', 'counter']);
      await attached();
      expect(await newestCount(target)).toBeGreaterThan(last);
    },
    longMs,
  );

  test(
    'reboots, and stays attached by the same mirrors; its QEMU dies, and it is attached when it starts again',
    async () => {
      const attachments = async (): Promise<number> =>
        (await source.client.events({ limit: 1000 })).events.filter(({ code }) => code === 'disk-attached').length;
      const before = await attachments();
      const jobs = await monitor({ execute: 'query-block-jobs' });
      const first = await newestCount(target);
      await libvirt.virsh.run(['reset', 'counter']);
      const second = await newestCount(target);
      expect(await newestCount(target)).toBeGreaterThan(second);
      expect(second).toBeGreaterThanOrEqual(first);
      expect(deviceNames(await monitor({ execute: 'query-block-jobs' }))).toEqual(deviceNames(jobs));
      expect(await attachments()).toBe(before);
      expect(await vmState()).toBe('attached');

      process.kill(libvirt.qemuPid('counter'), 'SIGKILL');
      await waitFor('seen off', async () => (await vmState()) === 'off');
      const last = readFileSync(vda).readUInt32LE(512);
      await libvirt.virsh.run(['start', 'counter']);
      await attached();
      expect(await newestCount(target)).toBeGreaterThanOrEqual(last);
    },
    longMs,
  );

  test(
    'is let go by a person: libvirt may do all again, then it is attached by itself and only what was missed is read',
    async () => {
      const table = await tidemark(lab, source, 'vm', 'list', 'local');
      expect(table.stdout).toMatch(/counter\s+local\s+running\s+vda\s+16\.0 MiB\s+erp\/counter-vda/);
      expect(table.stdout).toMatch(/vdc\s+16\.0 MiB\s+no: shared/);
      const proven = async (): Promise<boolean | undefined> =>
        (await source.client.group(group)).vms?.[0]?.disks.every(({ returnsBy }) => returnsBy === 'bitmap');
      await waitFor('the bitmaps are proven', proven);
      const snapshot = ['snapshot-create-as', 'counter', 'now', '--disk-only', '--no-metadata', '--diskspec'];
      const others = ['vda', 'vdc', 'vdd'].flatMap((target) => ['--diskspec', `${target},snapshot=no`]);
      const ofVdb = [...snapshot, `vdb,file=${lab.path('now.qcow2')}`, ...others];
      await expect(libvirt.virsh.run(ofVdb)).rejects.toThrow();

      const [released] = await tidemarkJson<{ releasedUntilMs: number }[]>(
        ...([lab, source, 'vm', 'release', 'counter', '--for', '8s'] as const),
      );
      expect(released?.releasedUntilMs).toBeGreaterThan(Date.now());
      await waitFor('released', async () => (await vmState()) === 'released');
      expect(await monitor({ execute: 'query-block-jobs' })).toEqual([]);
      expect((await bitmapsOfVda()).length).toBeGreaterThan(0);
      await libvirt.virsh.run(['blockresize', 'counter', 'vdb', '24M']);
      await libvirt.virsh.run(ofVdb);
      const { id } = await target.client.group(group).then(({ newestCheckpoint }) => newestCheckpoint!);

      await attached();
      expect(await newestCount(target)).toBeGreaterThan(0);
      expect((await target.client.group(group)).newestCheckpoint?.id).not.toBe(id);
      const { events } = await source.client.events({ limit: 1000 });
      const codes = events.map(({ code }) => code);
      const from = codes.lastIndexOf('vm-released');
      expect(codes.slice(from)).toEqual(expect.arrayContaining(['vm-release-ended', 'disk-grown', 'vm-attached']));
      const back = events.slice(from).filter(({ code }) => code === 'disk-attached');
      expect(back.map(({ attributes }) => [attributes['disk'], attributes['sync']])).toEqual([
        ['counter-vda', 'bitmap'],
        ['counter-vdb', 'compare'],
      ]);
      // The guest wrote one sector again and again.
      expect(back[0]?.attributes['missedBytes']).toBeGreaterThan(0);
      expect(back[0]?.attributes['missedBytes']).toBeLessThanOrEqual(2 * 64 * 1024);
      const wrong = await tidemark(lab, source, 'vm', 'release', 'nobody', '--for', '1m');
      expect(wrong.code).not.toBe(0);
      expect(wrong.stderr).toMatch(/vm-unknown.*nobody/s);
    },
    longMs,
  );

  test(
    'a disk that is plugged in joins the group; one that is taken away leaves it, and its history stays',
    async () => {
      await lab.processes.run('truncate', ['-s', String(diskBytes), lab.path('extra.raw')]);
      const disk = ['counter', lab.path('extra.raw'), 'sdb', '--targetbus', 'scsi', '--subdriver', 'raw', '--live'];
      await libvirt.virsh.run(['attach-disk', ...disk]);
      const stateAt = async (agent: AgentHandle): Promise<string | undefined> =>
        (await agent.client.group(group)).disks.find(({ name }) => name === 'counter-sdb')?.state;
      await waitFor('it is there', async () => (await stateAt(target)) === 'attached', { timeoutMs: 60_000 });
      await newestCount(target);
      const before = (await target.client.group(group)).newestCheckpoint!;
      expect(before.diskCount).toBe(3);

      await libvirt.virsh.run(['detach-disk', 'counter', 'sdb', '--live']);
      await waitFor('it has left', async () => (await stateAt(target)) !== 'attached', { timeoutMs: 60_000 });
      await newestCount(target);
      expect((await target.client.group(group)).newestCheckpoint).toMatchObject({ complete: true, diskCount: 2 });
      const at = { by: 'id', checkpoint: before.id } as const;
      const view = await target.client.openView(group, { id: 'then', at, purpose: 'browse' });
      expect(view.disks.map(({ name }) => name)).toEqual(['counter-vda', 'counter-vdb', 'counter-sdb']);
      await target.client.closeView(group, 'then', { force: true });
    },
    longMs,
  );

  test(
    'what cannot be captured is refused by name, and the other groups go on; a VM that nobody named is not touched',
    async () => {
      writeFileSync(lab.path('odd.xml'), oddXml(lab.path('vdc.raw')));
      await libvirt.virsh.run(['define', lab.path('odd.xml')]);
      const vms = (...list: object[]): { readonly vms: object[] } => ({ vms: list });
      const cases = {
        stranger: vms({ vm: 'nobody', hypervisor: 'local' }),
        nodisk: vms({ vm: 'counter', hypervisor: 'local', disks: ['vdz'] }),
        shared: vms({ vm: 'counter', hypervisor: 'local', disks: ['vdc'] }),
        cdrom: vms({ vm: 'counter', hypervisor: 'local', disks: ['sda'] }),
        readonly: vms({ vm: 'counter', hypervisor: 'local', disks: ['vdd'] }),
        raw: vms({ vm: 'odd', hypervisor: 'local', disks: ['sdb'] }),
        vtpm: vms({ vm: 'odd', hypervisor: 'local' }),
        twice: vms({ vm: 'counter', hypervisor: 'local', disks: ['vda'] }),
        down: vms({ vm: 'counter', hypervisor: 'gone' }),
      };
      source.configure(settings(Object.entries(cases).map(([name, what]) => ({ name, ...what }))));
      process.kill(source.pid, 'SIGHUP');
      const check = await waitFor('all are refused', async () => {
        const found = (await source.client.health()).checks.find(({ name }) => name === 'source-groups');
        return Object.keys(cases).every((name) => found?.message.includes(`${name}: `)) ? found : undefined;
      });
      expect(check.ok).toBe(false);
      for (const words of [
        'stranger: Hypervisor local has no VM nobody.',
        'nodisk: VM counter has no disk vdz; it has: vda, vdb, vdc, vdd, sda.',
        'readonly: Disk vdd of counter cannot be captured: read-only',
        'raw: Disk sdb of odd cannot be captured: a SCSI pass-through device',
        'vtpm: VM odd has no disk that can be captured while it is off (sdb: a SCSI pass-through device; vda: its VM has a TPM',
        'shared: Disk vdc of counter cannot be captured: shared with other VMs',
        'cdrom: Disk sda of counter cannot be captured: a cdrom.',
        'twice: Disk vda of VM counter is captured as erp/counter-vda already',
        'down: Hypervisor gone: ',
      ])
        expect(check.message).toContain(words);
      expect(check.message).toContain('(vm-refused at vms[0].disks[0])');
      expect(await vmState()).toBe('attached');
      source.configure(settings());
      // libvirt notes who was spoken to over the monitor.
      const logOf = (vm: string): string => readFileSync(lab.path('lv', 'log', 'qemu', `${vm}.log`), 'utf8');
      expect(logOf('counter')).toContain('custom-monitor');
      expect(logOf('other')).toContain('other');
      expect(logOf('other')).not.toContain('custom-monitor');
    },
    longMs,
  );
});
