import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { waitFor } from '../support/wait.js';
import { MoveRig } from './move-rig.js';

describe('move: planned failover of running VMs between two libvirts', () => {
  let rig: MoveRig;
  beforeAll(async () => {
    rig = await MoveRig.start();
  }, 180_000);
  afterAll(() => rig?.[Symbol.asyncDispose](), 60_000);

  const onlyDbRuns = (): Promise<unknown> =>
    waitFor('web is off', async () => (await rig.here.list()).join() === 'db', { timeoutMs: 60_000 });

  const runsOnAsBefore = async (): Promise<void> => {
    expect((await rig.here.list()).sort()).toEqual(['db', 'web']);
    expect(await rig.there.list('--all')).toEqual([]);
    await rig.counts('web');
    await rig.counts('db');
    await rig.protecting();
  };

  test('without the address of its API the source cannot be asked: refused, nothing touched', async () => {
    await expect(rig.move('no-api')).rejects.toMatchObject({ code: 'peer-api-unknown', path: 'peers[0].api' });
    await rig.setPeerApi();
  });

  test('a VM that does not shut down: those that did are started again; meanwhile nobody else may', async () => {
    const started = await rig.move('refused', { timeoutSeconds: 6 });
    expect(started.state).toBe('running');
    await expect(rig.move('second')).rejects.toMatchObject({ code: 'operation-running' });
    await onlyDbRuns();
    const { state, error } = await rig.ended('refused');
    expect({ state, code: error?.code }).toEqual({ state: 'failed', code: 'vm-not-stopped' });
    expect(error?.message).toMatch(/source: VM db is not off after 6 s.*started again.*The source goes on/);
    await runsOnAsBefore();
  }, 180_000);

  test('kill -9 of the source agent while VMs shut down: they are started again, the move fails', async () => {
    await rig.move('source-killed', { timeoutSeconds: 8 });
    await onlyDbRuns();
    await rig.source.kill();
    await rig.source.start();
    const { state, error } = await rig.ended('source-killed');
    expect({ state, code: error?.code }).toEqual({ state: 'failed', code: 'source-interrupted' });
    await runsOnAsBefore();
  }, 180_000);

  test('kill -9 of the target once everything arrived: it goes on, every byte is there, the VMs run', async () => {
    await rig.move('home', { timeoutSeconds: 5, force: 'stop' });
    await rig.ended('home-source', rig.source);
    await rig.target.kill();
    await rig.target.start();
    const { state, result, error } = await rig.ended('home');
    expect({ state, error }).toEqual({ state: 'succeeded', error: null });
    expect(result).toMatchObject({ lossSeconds: 0, vms: ['web', 'db'] });
    expect(result!['sourceStopMs']).toBeGreaterThan(4000);
    expect(await rig.here.list()).toEqual([]);
    expect((await rig.there.list()).sort()).toEqual(['db', 'web']);
    expect(await rig.differing(String(result!['checkpoint']))).toEqual([]);
    expect(rig.counter('web')).toBeGreaterThan(10);
  }, 180_000);

  test('rolled back: nothing is left here, the VMs at the source run again and are protected', async () => {
    await rig.target.client.startOperation('back', { kind: 'rollback', group: 'shop', arguments: {} });
    const { state, result } = await rig.ended('back');
    expect({ state, started: result?.['sourceStarted'] }).toEqual({ state: 'succeeded', started: true });
    await runsOnAsBefore();
  }, 180_000);
});
