/** Capture of running VMs through a real QEMU: attach, loss of the agent, bitmaps, restarts. */
import { writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import type { Laboratory } from '../support/laboratory.js';
import { GuestlessQemu } from '../support/guestless-qemu.js';
import { waitFor } from '../support/wait.js';
import { AttachRig, group, MiB, type RigDisk } from './attach-rig.js';

const longMs = 180_000;

function rawDisk(lab: Laboratory, id: string, sizeBytes: number, filledBytes = 0): RigDisk {
  const file = lab.path(`${id}.raw`);
  writeFileSync(file, randomBytes(filledBytes));
  return { id, file, sizeBytes };
}

async function twoDisks(lab: Laboratory): Promise<RigDisk[]> {
  const raw = rawDisk(lab, 'data', 64 * MiB, 24 * MiB);
  await lab.processes.run('truncate', ['-s', String(raw.sizeBytes), raw.file]);
  const qcow2 = { id: 'log', file: lab.path('log.qcow2'), sizeBytes: 32 * MiB, format: 'qcow2' as const };
  await lab.processes.run('qemu-img', ['create', '-q', '-f', 'qcow2', qcow2.file, String(qcow2.sizeBytes)]);
  return [raw, qcow2];
}

/** Blocks that came over the present connection. */
async function receivedBytes(rig: AttachRig): Promise<number> {
  const text = await rig.target.client.metrics();
  return Number(/^tidemark_journal_received_bytes\{[^}]*\} (\S+)$/m.exec(text)?.[1] ?? Number.NaN);
}

describe('attach by QMP', () => {
  test(
    'two disks, raw and qcow2: what the guest wrote is in the checkpoint, and comes back by bitmap after a kill',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      await rig.qemu.write('data', 0x41, 0, 65_536);
      await rig.qemu.write('log', 0x42, 12_345 * 512, 4096);
      await rig.qemu.io('data', 'write -z 1M 256k');
      await rig.expectEqual();

      await rig.waitReturnsByBitmap();
      await rig.source.kill();
      await rig.qemu.write('data', 0x43, 5 * MiB, 128 * 1024);
      await rig.qemu.write('log', 0x44, 9 * MiB, 512);
      await rig.source.start();
      const status = await rig.waitProtected();
      expect(status.vms?.[0]?.disks.map(({ sync }) => sync)).toEqual(['bitmap', 'bitmap']);
      expect(await receivedBytes(rig)).toBeLessThan(MiB);
      await rig.expectEqual();
    },
    longMs,
  );

  test(
    'a target that comes back after the attach gets only what the bitmap marks, too',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      await rig.waitReturnsByBitmap();
      await rig.target.kill();
      await rig.qemu.write('data', 0x4c, 6 * MiB, 4096);
      await rig.source.kill();
      await rig.qemu.write('log', 0x4d, 6 * MiB, 4096);
      await rig.source.start();
      await waitFor('attached', async () => (await rig.status()).vms?.[0]?.state === 'attached');
      await rig.qemu.write('data', 0x4e, 7 * MiB, 4096);
      await rig.target.start();
      await rig.waitProtected();
      const { events } = await rig.source.client.events({ limit: 1000 });
      const caughtUp = events.filter(({ code }) => code === 'disk-caught-up');
      // A comparison of so small a disk may have ended before.
      expect(caughtUp.length).toBeGreaterThan(0);
      await rig.expectEqual();
    },
    longMs,
  );

  test(
    'a released VM is free, and attached again by itself; the release outlives a restart of the agent',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      const { client } = rig.source;
      const [released] = await client.releaseVm('db', { forSeconds: 600 });
      expect(released?.releasedUntilMs).toBeGreaterThan(Date.now() + 500_000);
      await waitFor('nothing of the agent is left in QEMU', async () => (await rig.traces()).length === 0);
      await rig.source.stop();
      await rig.source.start();
      await waitFor('still released', async () => (await rig.status()).vms?.[0]?.state === 'released');
      await rig.qemu.write('data', 0x46, 3 * MiB, 4096);
      expect((await rig.status()).alerts.map(({ code }) => code)).toEqual(['vm-released']);
      await client.releaseVm('db', { forSeconds: 1 });
      const status = await rig.waitProtected();
      expect(status.vms?.[0]?.releasedUntilMs).toBeNull();
      await rig.expectEqual();
      await expect(client.releaseVm('nope', { forSeconds: 1 })).rejects.toMatchObject({ code: 'vm-unknown' });

      const { vms } = await client.vms();
      expect(vms[0]?.disks.map(({ target, disk, refusal }) => [target, disk, refusal])).toEqual([
        ['data', 'db-data', null],
        ['log', 'db-log', null],
      ]);
    },
    longMs,
  );

  test(
    'a released disk grows, a new one is plugged in: the group follows',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      const { monitor } = rig.qemu;
      await rig.source.client.releaseVm('db', { forSeconds: 600 });
      await waitFor('nothing of the agent is left in QEMU', async () => (await rig.traces()).length === 0);
      await monitor.execute('block_resize', { 'node-name': 'node-data', size: 80 * MiB });
      await rig.qemu.write('data', 0x48, 72 * MiB, 8192);
      await rig.source.client.attachVm('db');
      await rig.waitProtected();
      await rig.expectEqual();

      const more = rawDisk(rig.lab, 'more', 8 * MiB, 8 * MiB);
      const file = { driver: 'file', filename: more.file };
      await monitor.execute('blockdev-add', { driver: 'raw', 'node-name': 'node-more', file });
      await monitor.execute('device_add', { driver: 'virtio-blk-pci', id: 'more', drive: 'node-more', bus: 'hot' });
      rig.disks.push(more);
      const joined = async (): Promise<boolean> =>
        (await rig.status()).disks.some(({ name, state }) => name === 'db-more' && state === 'attached');
      await waitFor('the new disk is attached', joined, { timeoutMs: 60_000 });
      await rig.qemu.write('more', 0x49, MiB, 4096);
      await rig.waitProtected();
      await rig.expectEqual();
    },
    longMs,
  );

  test(
    'failed over, its VM is paused and what no target has is named, also after a restart; rolled back it goes on',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      const { monitor } = rig.qemu;
      const running = async (): Promise<boolean> =>
        ((await monitor.execute('query-status')) as { running: boolean }).running;
      await monitor.execute('cont');
      const ask = async (id: string, kind: 'failover' | 'rollback', args: object): Promise<void> => {
        await rig.target.client.startOperation(id, { kind, group, arguments: args } as never);
        const { state } = await rig.target.client.waitOperation(id, () => undefined, AbortSignal.timeout(30_000));
        expect(state).toBe('succeeded');
      };
      await ask('out', 'failover', { at: { by: 'latest' }, sourceMayBeAlive: true });
      await waitFor('the VM is paused', async () => !(await running()));
      const orphan = async (): Promise<string | undefined> =>
        (await rig.status()).alerts.find(({ code }) => code === 'stale-epoch')?.message;
      const told = await orphan();
      expect(told).toMatch(/fencing: isolate.*orphan-erp-\S+ holds what no target has: \d+\.\d s, \d+ bytes/);
      await rig.source.kill();
      await monitor.execute('cont');
      await rig.source.start();
      await waitFor('paused again', async () => !(await running()), { timeoutMs: 30_000 });
      expect(await orphan()).toBe(told);
      await ask('back', 'rollback', { keepHours: 1 });
      await waitFor('the VM goes on', running, { timeoutMs: 30_000 });
      await rig.waitProtected();
      expect(await orphan()).toBeUndefined();
    },
    longMs,
  );

  test(
    'a hung agent lets the guest go; started anew it reads only what was missed',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      await rig.waitReturnsByBitmap();
      const hung = rig.source.process;
      process.kill(hung.pid, 'SIGSTOP');
      const sinceMs = performance.now();
      await rig.qemu.write('data', 0x4a, 2 * MiB, 4096);
      expect(performance.now() - sinceMs).toBeLessThan(2000);
      await hung.exited;
      await rig.qemu.write('log', 0x4b, 2 * MiB, 4096);
      await rig.source.start();
      const status = await rig.waitProtected();
      expect(status.vms?.[0]?.disks.map(({ sync }) => sync)).toEqual(['bitmap', 'bitmap']);
      await rig.expectEqual();
    },
    longMs,
  );

  test(
    'a mirror that somebody cancels is made again; only what was written meanwhile is read',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      const job = (await rig.qemu.jobs())[0]!.device;
      await rig.qemu.monitor.execute('block-job-cancel', { device: job, force: true });
      await rig.qemu.write('data', 0x47, 11 * MiB, 4096);
      const lost = async (): Promise<boolean> =>
        (await rig.source.client.events({})).events.some(({ code }) => code === 'disk-detached');
      await waitFor('the loss is seen', lost);
      const status = await rig.waitProtected();
      expect(status.vms?.[0]?.disks.map(({ sync }) => sync)).toContain('bitmap');
      await rig.expectEqual();
      await rig.source.stop();
      await waitFor('the agent took everything away', async () => (await rig.traces()).length === 0);
    },
    longMs,
  );

  test(
    'a VM that was started anew is compared whole, by digests',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      await rig.qemu.end();
      await waitFor('the VM is seen off', async () => (await rig.status()).vms?.[0]?.state === 'off');
      // All that it ever wrote was captured: its last state is a complete checkpoint.
      await rig.waitProtected();
      const offline = await GuestlessQemu.start(rig.lab.processes, rig.lab.directory, 'db2', rig.disks);
      await offline.write('data', 0x45, 7 * MiB, 4096);
      await offline.end();
      rig.qemu = await GuestlessQemu.start(rig.lab.processes, rig.lab.directory, 'db', rig.disks);
      const status = await rig.waitProtected();
      expect(status.vms?.[0]?.disks.map(({ sync }) => sync)).toEqual(['compare', 'compare']);
      await rig.expectEqual();
      expect((await rig.source.client.group(group)).alerts).toEqual([]);
    },
    longMs,
  );
});
