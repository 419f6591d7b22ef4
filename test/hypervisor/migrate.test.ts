/** Live migration of a protected VM between two hosts with an agent each: capture follows it, nothing is lost. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { GroupStatus } from '../../agent/src/service/group-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { writeCountingDisk } from '../support/counting-guest.js';
import { Laboratory } from '../support/laboratory.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const sizeBytes = 16 * MiB;
const group = 'shop';
type Checkpoint = NonNullable<GroupStatus['newestCheckpoint']>;
interface Host {
  readonly libvirt: PrivateLibvirt;
  readonly agent: AgentHandle;
}

describe('a VM that migrates', () => {
  let lab: Laboratory;
  let target: AgentHandle;
  let first: Host;
  let second: Host;
  let disk: string;
  let migrations = 0;

  beforeAll(async () => {
    lab = await Laboratory.open();
    disk = lab.path('shared', 'web.raw');
    writeCountingDisk(disk, sizeBytes);
    // Behind what the guest counts on: bytes that a whole sync would have to send.
    const bytes = readFileSync(disk);
    for (let offset = MiB; offset < sizeBytes; offset += 4)
      bytes.writeInt32LE(Math.imul(offset, 0x9e3779b1) | 0, offset);
    writeFileSync(disk, bytes);
    const startHost = async (name: string): Promise<Host> => ({
      libvirt: await PrivateLibvirt.start(lab.processes, join(lab.directory, name), `libvirt-${name}`),
      agent: await lab.prepareAgent(name),
    });
    target = await lab.prepareAgent('target');
    first = await startHost('one');
    second = await startHost('two');
    writeFileSync(lab.path('web.xml'), domainXml(disk));
    await first.libvirt.virsh.run(['create', lab.path('web.xml')]);
    target.configure({
      peers: [{ name: 'one' }, { name: 'two' }],
      targetGroups: [
        {
          name: group,
          streams: ['one', 'two'],
          disks: [{ name: 'web-vda', sizeBytes, stream: 'one' }],
          checkpointIntervalSeconds: 1,
        },
      ],
    });
    await target.start();
    for (const { agent, libvirt } of [first, second]) {
      agent.configure({
        peers: [{ name: 'target', address: target.addresses.stream }],
        hypervisors: [{ name: 'local', kind: 'libvirt', uri: libvirt.uri }],
        sourceGroups: [
          {
            name: group,
            targets: [{ peer: 'target' }],
            checkpointIntervalSeconds: 1,
            vms: [{ vm: 'web', hypervisor: 'local', migrates: true }],
          },
        ],
      });
      await agent.start();
    }
    await complete();
  }, 120_000);
  afterAll(async () => {
    for (const agent of [first?.agent, second?.agent, target]) if (agent?.wasStarted === true) await agent.kill();
    for (const host of [first, second]) await host?.libvirt[Symbol.asyncDispose]();
    await lab?.close();
  }, 60_000);

  /** A complete checkpoint that was made after the call. */
  const complete = (): Promise<Checkpoint> => {
    const sinceMs = Date.now();
    return waitFor(
      'a new complete checkpoint',
      async () => {
        const newest = (await target.client.group(group)).newestCheckpoint;
        return newest !== null && newest.complete && newest.sourceTimeMs > sinceMs ? newest : undefined;
      },
      { timeoutMs: 60_000, everyMs: 50 },
    );
  };

  const bytesAt = async ({ id }: Checkpoint): Promise<Buffer> => {
    const view = await target.client.openView(group, {
      id: `v-${id}`,
      at: { by: 'id', checkpoint: id },
      purpose: 'browse',
    });
    try {
      const client = await NbdClient.open(view.disks[0]!.uri, { clock: nodeClock });
      const bytes = Buffer.alloc(client.sizeBytes);
      await client.read(bytes, 0);
      await client.close();
      return bytes;
    } finally {
      await target.client.closeView(group, view.id, { force: true });
    }
  };
  const countOf = (bytes: Buffer): number => bytes.readUInt32LE(512);
  const counted = (): number => countOf(readFileSync(disk));

  /** The newest complete checkpoint has what the guest had written by now, and every other byte of its disk. */
  const protectedNow = async (): Promise<Checkpoint> => {
    const before = counted();
    const checkpoint = await complete();
    const bytes = await bytesAt(checkpoint);
    expect(countOf(bytes)).toBeGreaterThanOrEqual(before);
    expect(countOf(bytes)).toBeLessThanOrEqual(counted());
    expect(bytes.subarray(1024).equals(readFileSync(disk).subarray(1024))).toBe(true);
    return checkpoint;
  };

  const migrate = async (from: Host, to: Host): Promise<void> => {
    const socket = lab.path(`migrate-${migrations++}.sock`);
    await from.libvirt.virsh.run(
      ['migrate', '--live', '--unsafe', 'web', to.libvirt.uri, '--migrateuri', `unix://${socket}`],
      { timeoutMs: 60_000 },
    );
    expect(await to.libvirt.list()).toEqual(['web']);
  };

  const vmAt = async ({ agent }: Host): Promise<string | undefined> =>
    (await agent.client.group(group)).vms?.[0]?.state;
  const sentBy = async (name: string): Promise<number> => {
    const text = await target.client.metrics();
    const line = new RegExp(`^tidemark_journal_received_bytes\\{[^}]*"${name}"[^}]*\\} (\\S+)$`, 'm');
    return Number(line.exec(text)?.[1]);
  };

  test('under load and without a word: the new host goes on, only what differs travels, the history stays', async () => {
    const before = await protectedNow();
    expect([await vmAt(first), await vmAt(second)]).toEqual(['attached', 'elsewhere']);
    await migrate(first, second);
    await waitFor('attached at its new host', async () => (await vmAt(second)) === 'attached');
    await protectedNow();
    expect(await vmAt(first)).toBe('elsewhere');
    expect(await sentBy('two')).toBeLessThan(2 * MiB);
    const { checkpoints } = await target.client.checkpoints(group, { limit: 1000 });
    expect(checkpoints.map(({ id }) => id)).toContain(before.id);
    expect(countOf(await bytesAt(before))).toBeLessThan(counted());
    const [status] = (await target.client.group(group)).disks;
    expect(status).toMatchObject({ name: 'web-vda', index: 0, stream: 'two', state: 'attached' });
  }, 120_000);

  test('released before, and back: the same disk again', async () => {
    await second.agent.client.releaseVm('web', { forSeconds: 600 });
    await waitFor('released', async () => (await vmAt(second)) === 'released');
    await migrate(second, first);
    await protectedNow();
    expect([await vmAt(first), await vmAt(second)]).toEqual(['attached', 'elsewhere']);
    expect((await target.client.group(group)).disks).toHaveLength(1);
  }, 120_000);

  test('its old agent is away meanwhile: the new one is refused by name, and goes on when one of its name has given up', async () => {
    // One that was killed leaves a mirror to nobody, with which QEMU refuses to migrate.
    await first.agent.stop();
    await migrate(first, second);
    const refused = await waitFor('refused', async () =>
      (await second.agent.client.group(group)).alerts.find(({ code }) => code === 'disk-refused'),
    );
    expect(refused.message).toMatch(/web-vda: one sends a disk of that name, and has not given it up/);
    // As if its host had been lost for good, and another had its name.
    rmSync(first.agent.dataDirectory, { recursive: true });
    await first.agent.start();
    await protectedNow();
    expect([await vmAt(first), await vmAt(second)]).toEqual(['elsewhere', 'attached']);
    // A restart of the target finds it as it was, whatever its configuration said of the first host.
    await target.kill();
    await target.start();
    await protectedNow();
    expect((await target.client.group(group)).disks).toMatchObject([{ stream: 'two', state: 'attached' }]);
  }, 120_000);
});

function domainXml(disk: string): string {
  return `<domain type='qemu'><name>web</name><uuid>2f9c1d1e-6a77-4f0e-9a51-7be8a4a0c0de</uuid>
    <memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
    <devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
    <source file='${disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>`;
}
