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
    'a VM that was started anew is compared whole, by digests',
    async () => {
      await using rig = await AttachRig.start(twoDisks);
      await rig.qemu.end();
      await waitFor('the VM is seen off', async () => (await rig.status()).vms?.[0]?.state === 'off');
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
