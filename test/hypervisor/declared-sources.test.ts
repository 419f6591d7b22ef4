/** A VM whose group is declared by the API: attached through a real QEMU, by bitmap after a kill, let go and left as it is. */
import { expect, test } from '@jest/globals';
import { makeSparseFile } from '../support/tools.js';
import { GuestlessQemu } from '../support/guestless-qemu.js';
import { Laboratory } from '../support/laboratory.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const sizeBytes = 16 * MiB;

test('declared, captured, changed, removed: the VM runs on', async () => {
  await using lab = await Laboratory.open();
  const disks = ['data', 'log'].map((id) => ({ id, file: makeSparseFile(lab.path(`${id}.raw`), sizeBytes) }));
  const qemu = await GuestlessQemu.start(lab.processes, lab.directory, 'db', disks);
  try {
    const target = await lab.startAgent('target', { peers: [{ name: 'source' }] });
    const source = await lab.startAgent('source', {
      peers: [{ name: 'target', address: target.addresses.stream }],
      hypervisors: [{ name: 'lab', kind: 'qmp', monitors: [{ vm: 'db', socket: qemu.monitorSocket }] }],
    });
    const spec = {
      streams: ['source'],
      disks: disks.map(({ id }) => ({ name: `db-${id}`, sizeBytes, stream: 'source' })),
    };
    await target.client.declareGroup('erp', { spec });
    const declare = (vm: string, hypervisor: string, chosen: string[]) =>
      source.client.declareSourceGroup('erp', {
        spec: {
          targets: [{ peer: 'target' }],
          checkpointIntervalSeconds: 1,
          vms: [{ vm, hypervisor, disks: chosen }],
        },
      });
    /** Jobs, nodes and exports of the agent in QEMU. */
    const traces = async (): Promise<string[]> => {
      const jobs = (await qemu.monitor.execute('query-block-jobs')) as { device: string }[];
      const exports = (await qemu.monitor.execute('query-block-exports')) as { id: string }[];
      return [...jobs.map(({ device }) => device), ...exports.map(({ id }) => id)].filter((name) =>
        name.startsWith('tidemark-'),
      );
    };
    const waitCaptured = async (diskCount: number): Promise<void> => {
      const sinceMs = Date.now();
      const captured = async (): Promise<boolean> => {
        const [here, there] = [await source.client.group('erp'), await target.client.group('erp')];
        const isAttached = here.vms?.[0]?.state === 'attached' && here.vms[0].disks.length === diskCount;
        return isAttached && here.syncs.length === 0 && (there.newestCheckpoint?.sourceTimeMs ?? 0) > sinceMs;
      };
      await waitFor('the VM is captured', captured, { timeoutMs: 60_000, everyMs: 50 });
    };

    await expect(declare('nobody', 'lab', ['data'])).rejects.toMatchObject({ path: 'spec.vms[0].vm' });
    await expect(declare('db', 'elsewhere', ['data'])).rejects.toMatchObject({ path: 'spec.vms[0].hypervisor' });
    await expect(declare('db', 'lab', ['cdrom'])).rejects.toMatchObject({ code: 'disk-unknown' });
    await expect(source.client.sourceGroup('erp')).rejects.toMatchObject({ code: 'group-unknown' });

    await declare('db', 'lab', ['data', 'log']);
    await waitCaptured(2);
    await qemu.write('data', 0x41, 0, 65_536);
    await source.kill();
    await qemu.write('log', 0x42, MiB, 4096);
    await source.start();
    await waitCaptured(2);

    // Opened anew with what is left; the disk that nobody names any more is missing until it is given up.
    await expect(declare('db', 'lab', ['data'])).resolves.toMatchObject({ policyRevision: 2, opened: true });
    const opened = async (): Promise<boolean> => (await source.client.group('erp')).vms?.[0]?.disks.length === 1;
    await waitFor('one disk', opened, { timeoutMs: 60_000, everyMs: 50 });
    await declare('db', 'lab', ['data', 'log']);
    await waitCaptured(2);
    const { id } = await source.client.createCheckpoint('erp', { label: 'last' });
    expect((await target.client.resolveCheckpoint('erp', { by: 'label', label: 'last' })).id).toBe(id);

    expect((await traces()).length).toBeGreaterThan(0);
    await source.client.removeSourceGroup('erp');
    expect(await traces()).toEqual([]);
    await qemu.write('data', 0x43, 2 * MiB, 4096);
    expect(await source.client.groups()).toEqual([]);
  } finally {
    await qemu.end();
  }
}, 180_000);
