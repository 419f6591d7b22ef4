import { existsSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Operation, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import { waitFor } from '../support/wait.js';
import { startRecoveryRig, vmUuid, type RecoveryRig } from './recovery-rig.js';

describe('an uncommitted failover', () => {
  test('is rolled back by its policy, and a kill in the middle of the boot loses nothing', async () => {
    await using rig = await startRecoveryRig({ recovery: { uncommittedHours: 0.005, afterwards: 'rollback' } });
    await rig.target.client.startOperation('killed', {
      ...{ kind: 'failover', group: 'shop' },
      arguments: { at: { by: 'latest' }, sourceMayBeAlive: true },
    } as OperationRequest);
    await waitFor('the VM is there', async () => (await rig.libvirt.list('--all')).length > 0, { everyMs: 5 });
    await rig.target.kill();
    await rig.target.start();
    const done = await rig.target.client.waitOperation('killed', () => undefined, AbortSignal.timeout(60_000));
    expect(done.state).toBe('succeeded');
    expect(await rig.libvirt.list()).toEqual(['count']);
    await rig.libvirt.virsh.run(['destroy', 'count']);
    const boot = await rig.run('boot', { kind: 'boot', arguments: {} });
    expect(boot).toMatchObject({ state: 'succeeded', result: { boots: [{ vm: 'count' }] } });
    await waitFor('the policy', async () => (await rig.target.client.group('shop')).state !== 'failed-over', {
      timeoutMs: 60_000,
    });
    await waitFor('the VM is gone', async () => (await rig.libvirt.list('--all')).length === 0);
    const [first] = (await rig.target.client.operations({ kind: 'rollback' })).operations;
    expect(first).toMatchObject({ drivenBy: 'policy', state: 'succeeded' });

    // And committed by another one.
    const { spec } = await rig.target.client.policy('shop');
    const recovery = { ...spec.recovery!, uncommittedHours: 0.001, afterwards: 'commit' as const };
    await rig.target.client.declareGroup('shop', { spec: { ...spec, recovery } });
    const again = await rig.run('again', {
      kind: 'failover',
      arguments: { at: { by: 'latest' }, sourceMayBeAlive: true },
    } as OperationRequest);
    expect(again.state).toBe('succeeded');
    await waitFor('committed', async () => (await rig.target.client.group('shop')).state === 'committed', {
      timeoutMs: 60_000,
    });
    const [second] = (await rig.target.client.operations({ kind: 'commit' })).operations;
    expect(second).toMatchObject({ drivenBy: 'policy' });
    expect(await rig.libvirt.list()).toEqual(['count']);
  }, 180_000);
});

describe('live VMs on libvirt', () => {
  let rig: RecoveryRig;
  beforeEach(async () => (rig = await startRecoveryRig()), 120_000);
  afterEach(async () => rig?.[Symbol.asyncDispose]());

  const failover = (id = 'failover'): Promise<Operation> =>
    rig.run(id, { kind: 'failover', arguments: { at: { by: 'latest' }, sourceMayBeAlive: true } });

  const domain = (...flags: string[]): Promise<string> => rig.libvirt.virsh.run(['dumpxml', vmUuid, ...flags]);

  /** What the guest said on its serial port. */
  const said = async (): Promise<string> => {
    const log = /<source path='([^']*serial0.log)'/.exec(await domain())?.[1];
    return readFileSync(log!, 'utf8');
  };

  const counts = async (): Promise<void> => {
    const before = (await said()).length;
    await waitFor('the guest counts', async () => (await said()).length > before + 5, { timeoutMs: 60_000 });
  };

  test('failover boots it with its name, UUID and MAC; rollback ends it and protection goes on', async () => {
    const done = await failover();
    expect(done).toMatchObject({
      state: 'succeeded',
      result: { vms: ['count'], boots: [{ vm: 'count', uuid: vmUuid }] },
    });
    expect(done.result?.['firstBootMs']).toBeLessThan(3000);
    expect(await domain()).toContain('52:54:00:aa:bb:01');
    expect(await rig.libvirt.list()).toEqual(['count']);
    await counts();
    const back = await rig.run('rollback', { kind: 'rollback', arguments: { keepHours: 1 } });
    expect(back.state).toBe('succeeded');
    expect(await rig.libvirt.list('--all')).toEqual([]);
    await waitFor('protection', async () => (await rig.target.client.group('shop')).state === 'protecting');
    expect((await rig.target.client.views('shop')).map(({ state }) => state)).toEqual(['kept']);
    expect((await failover('again')).state).toBe('succeeded');
    await counts();
  }, 120_000);

  test('kill -9 of the agent under a running VM: it stops, and goes on by itself without an error', async () => {
    await failover();
    await counts();
    await rig.target.kill();
    await waitFor('the VM stops', async () => (await rig.libvirt.list('--state-paused')).length === 1, {
      timeoutMs: 60_000,
    });
    await rig.target.start();
    await counts();
    expect(await said()).not.toContain('E');
  }, 120_000);

  test('a commit whose QEMU is killed behind the point of no return copies the rest, and starts it on its files', async () => {
    await failover();
    await counts();
    const pid = rig.libvirt.qemuPid('count');
    const commit = rig.run('commit', { kind: 'commit', arguments: {} });
    await waitFor(
      'past the point of no return',
      async () => (await rig.target.client.group('shop')).state !== 'failed-over',
      {
        timeoutMs: 60_000,
        everyMs: 2,
      },
    );
    process.kill(pid, 'SIGKILL');
    const done = await commit;
    expect(done.state).toBe('succeeded');
    for (const file of done.result?.['files'] as string[]) expect(await domain('--inactive')).toContain(file);
    expect(await rig.target.client.views('shop')).toEqual([]);
    await counts();
    expect(await said()).not.toContain('E');
  }, 120_000);

  test('no room for a commit; libvirtd dies while it mirrors: nothing was committed, and it can be asked for again', async () => {
    await failover();
    await counts();
    const machines = join(rig.target.dataDirectory, 'machines', 'shop');
    // Where the new disks would go there is no room.
    await rig.lab.processes.run('mount', ['-t', 'tmpfs', '-o', 'size=20m', 'tmpfs', machines]);
    const full = rig.run('commit-full', { kind: 'commit', arguments: {} });
    await expect(full.finally(() => rig.lab.processes.run('umount', [machines]))).rejects.toMatchObject({
      code: 'storage-full',
      path: expect.stringContaining(machines),
    });
    expect((await rig.target.client.group('shop')).state).toBe('failed-over');
    await rig.libvirt.killDaemon();
    const refused = rig.run('commit', { kind: 'commit', arguments: {} });
    await expect(refused).rejects.toMatchObject({ code: 'hypervisor-unreachable' });
    await rig.libvirt.startDaemon();
    expect((await rig.target.client.group('shop')).state).toBe('failed-over');
    const again = await rig.run('commit-2', { kind: 'commit', arguments: {} });
    expect(again.state).toBe('succeeded');
    await counts();
  }, 120_000);

  test('commit moves the running VM onto files of its own, also after a kill', async () => {
    await failover();
    await counts();
    await rig.target.client.startOperation('commit', { kind: 'commit', group: 'shop', arguments: {} });
    await waitFor(
      'past the point of no return',
      async () => (await rig.target.client.group('shop')).state !== 'failed-over',
      {
        timeoutMs: 60_000,
        everyMs: 5,
      },
    );
    await rig.target.kill();
    await rig.target.start();
    const commit = await rig.target.client.waitOperation('commit', () => undefined, AbortSignal.timeout(60_000));
    expect(commit.state).toBe('succeeded');
    const files = commit.result?.['files'] as string[];
    for (const flags of [[], ['--inactive']])
      for (const file of files) expect(await domain(...flags)).toContain(`<source file='${file}'`);
    expect(await rig.target.client.views('shop')).toEqual([]);
    expect(files.some((file) => existsSync(`${file}.pivoting`))).toBe(false);
    await counts();
    expect(await said()).not.toContain('E');
    // The last number that it wrote is on the file.
    const marks = (await said()).length;
    await rig.libvirt.virsh.run(['destroy', vmUuid]);
    expect(counterOf(files.find((file) => file.includes('vda'))!)).toBeGreaterThanOrEqual(1000 + marks);
    await rig.libvirt.virsh.run(['start', vmUuid]);
    await counts();
  }, 120_000);
});

function counterOf(file: string): number {
  const bytes = Buffer.alloc(4);
  readSync(openSync(file, 'r'), bytes, 0, 4, 512);
  return bytes.readUInt32LE(0);
}
