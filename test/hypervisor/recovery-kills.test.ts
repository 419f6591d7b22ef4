/** kill -9 of the target agent before and behind whatever a drill, a failover and a rollback change at the hypervisor. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import type { Operation, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import { Laboratory } from '../support/laboratory.js';
import { VirshGate } from '../support/virsh-gate.js';
import { waitFor } from '../support/wait.js';
import { startRecoveryRig, vmUuid, type RecoveryRig } from './recovery-rig.js';

describe('kills in the middle of', () => {
  let gateLab: Laboratory;
  let gate: VirshGate;
  let rig: RecoveryRig;

  beforeAll(async () => {
    gateLab = await Laboratory.open();
    gate = new VirshGate(gateLab.path('gate', 'x', '..'), () => join(rig.target.dataDirectory, 'groups', 'shop'));
    rig = await startRecoveryRig({ env: gate.env });
  }, 120_000);
  afterEach(() => gate.open());
  afterAll(async () => {
    await rig?.[Symbol.asyncDispose]();
    await gateLab?.close();
  });

  /** Kills the agent before and after each of these calls, in this order, in one operation; resolves with its end. */
  const survive = async (request: Omit<OperationRequest, 'group'>, calls: readonly string[]): Promise<Operation> => {
    const [first, ...rules] = calls.flatMap((call) =>
      (['before', 'after'] as const).map((when) => ({ when, call: ` ${call} ` })),
    );
    gate.arm(first!);
    const id = `killed-${request.kind}`;
    await rig.target.client.startOperation(id, { ...request, group: 'shop' } as OperationRequest);
    for (const next of [...rules, undefined]) {
      await gate.held(`${request.kind} stops`);
      await rig.target.kill();
      if (next === undefined) gate.open();
      else gate.arm(next);
      await rig.target.start();
    }
    return rig.target.client.waitOperation(id, () => undefined, AbortSignal.timeout(60_000));
  };

  const protecting = (): Promise<unknown> => {
    const sinceMs = Date.now();
    return waitFor(
      'a new complete checkpoint',
      async () => {
        const { state, newestCheckpoint } = await rig.target.client.group('shop');
        return state === 'protecting' && (newestCheckpoint?.sourceTimeMs ?? 0) > sinceMs;
      },
      { timeoutMs: 60_000 },
    );
  };

  test('a drill: it is carried out, and nothing is left', async () => {
    const calls = ['net-create', 'define', 'start', 'destroy', 'undefine', 'net-destroy'];
    const drill = await survive({ kind: 'drill', arguments: { at: { by: 'latest' }, keepMinutes: 0 } }, calls);
    expect(drill.error).toBeNull();
    expect(drill).toMatchObject({ state: 'succeeded', result: { passed: true } });
    expect(await rig.libvirt.list('--all')).toEqual([]);
    expect(await rig.libvirt.virsh.run(['net-list', '--all', '--name'])).not.toContain('drill');
    expect(await rig.target.client.views('shop')).toEqual([]);
    const machines = join(rig.target.dataDirectory, 'machines', 'shop');
    expect(existsSync(machines) ? readdirSync(machines) : []).toEqual([]);
    await protecting();
  }, 180_000);

  test('a failover: its VM runs once, without an error', async () => {
    const failover = await survive({ kind: 'failover', arguments: { at: { by: 'latest' }, sourceMayBeAlive: true } }, [
      'define',
      'start',
    ]);
    expect(failover.error).toBeNull();
    expect(failover).toMatchObject({ state: 'succeeded', result: { vms: ['count'] } });
    expect(await rig.libvirt.list('--all')).toEqual(['count']);
    const log = /<source path='([^']*serial0.log)'/.exec(await rig.libvirt.virsh.run(['dumpxml', vmUuid]))![1]!;
    await waitFor('the guest counts', () => readFileSync(log, 'utf8').length > 5, { timeoutMs: 60_000 });
    expect(readFileSync(log, 'utf8')).not.toContain('E');
    expect((await rig.target.client.group('shop')).state).toBe('failed-over');
  }, 180_000);

  test('a rollback: the VM is gone, its writes are kept, protection goes on', async () => {
    const rollback = await survive({ kind: 'rollback', arguments: { keepHours: 1 } }, ['destroy', 'undefine']);
    expect(rollback.state).toBe('succeeded');
    expect(await rig.libvirt.list('--all')).toEqual([]);
    expect((await rig.target.client.views('shop')).map(({ state }) => state)).toEqual(['kept']);
    await protecting();
  }, 180_000);
});
