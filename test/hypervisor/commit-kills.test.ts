/** kill -9 of the agent, of libvirtd and of QEMU between every two steps of a commit; acknowledged writes are counted. */
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Operation } from '../../agent/src/service/operation-schemas.js';
import { Laboratory } from '../support/laboratory.js';
import { VirshGate, type GateRule } from '../support/virsh-gate.js';
import { waitFor } from '../support/wait.js';
import { startRecoveryRig, vmUuid, type RecoveryRig } from './recovery-rig.js';

type Victim = 'agent' | 'libvirtd' | 'qemu';
const everyone: readonly Victim[] = ['agent', 'libvirtd', 'qemu'];

/** Where a commit is stopped. Between two of them virsh is not called, or nothing is changed. */
const boundaries: Readonly<Record<string, { readonly rule: GateRule; readonly victims?: readonly Victim[] }>> = {
  'the first disk is copied': { rule: { when: 'after', call: 'blockcopy .* vda' } },
  'all copies are ready': { rule: { when: 'after', call: 'domstate', behind: 'blockjob .* vdb --info' } },
  'the point of no return is passed': { rule: { when: 'before', call: '', record: '"state":"committing"' } },
  'the first disk counts as a file': { rule: { when: 'before', call: 'blockjob .* vda --pivot' } },
  'the first disk is moved': { rule: { when: 'after', call: 'blockjob .* vda --pivot' } },
  'the second disk counts as a file': { rule: { when: 'before', call: 'blockjob .* vdb --pivot' } },
  'both disks are moved': { rule: { when: 'after', call: 'blockjob .* vdb --pivot' } },
  'the definition is saved': { rule: { when: 'after', call: 'define ' } },
  'all is proven': { rule: { when: 'before', call: 'metadata .* --remove' }, victims: ['agent'] },
  "the VM is its owner's": { rule: { when: 'after', call: 'metadata .* --remove' }, victims: ['agent'] },
};

describe('a commit', () => {
  let rig: RecoveryRig;
  let gate: VirshGate;
  let gateLab: Laboratory;
  let template: string;

  beforeAll(async () => {
    gateLab = await Laboratory.open();
    gate = new VirshGate(gateLab.path('gate', 'x', '..'), () => join(rig.target.dataDirectory, 'groups', 'shop'));
    rig = await startRecoveryRig({ env: gate.env, countOnBoth: true, recovery: { uncommittedHours: 0.001 } });
    await rig.source.close();
    const failover = await rig.run('failover', {
      kind: 'failover',
      arguments: { at: { by: 'latest' }, sourceMayBeAlive: true },
    });
    expect(failover.state).toBe('succeeded');
    await counts();
    await forget();
    await rig.target.stop();
    template = rig.lab.path('template');
    cpSync(rig.target.dataDirectory, template, { recursive: true });
  }, 120_000);
  afterAll(async () => {
    await rig?.[Symbol.asyncDispose]();
    await gateLab?.close();
  });

  const domain = (...flags: string[]): Promise<string> => rig.libvirt.virsh.run(['dumpxml', vmUuid, ...flags]);

  /** What the guest said in all its lives. */
  const said = async (): Promise<string> =>
    readFileSync(/<source path='([^']*serial0.log)'/.exec(await domain('--inactive'))![1]!, 'utf8');

  const counts = async (): Promise<void> => {
    const before = (await said()).length;
    await waitFor('the guest counts', async () => (await said()).length > before + 2, { timeoutMs: 60_000 });
  };

  const forget = async (): Promise<void> => {
    for (const args of [
      ['destroy', vmUuid],
      ['undefine', vmUuid],
    ])
      await rig.libvirt.virsh.run(args).catch(() => undefined);
  };

  /** An uncommitted failover whose VM runs, as it was when the template was made. */
  const failedOver = async (): Promise<void> => {
    const { dataDirectory } = rig.target;
    rmSync(dataDirectory, { recursive: true, force: true });
    cpSync(template, dataDirectory, { recursive: true });
    await rig.target.start();
    expect((await rig.run('boot', { kind: 'boot', arguments: {} })).state).toBe('succeeded');
    const { alerts } = await rig.target.client.group('shop');
    expect(alerts.map(({ code }) => code)).toContain('failover-uncommitted');
    await counts();
  };

  const strike = async (victim: Victim): Promise<void> => {
    if (victim === 'agent') {
      await rig.target.kill();
      gate.open();
      await rig.target.start();
    } else if (victim === 'libvirtd') {
      await rig.libvirt.killDaemon();
      gate.open();
      await gate.failed();
      await rig.libvirt.startDaemon();
    } else {
      process.kill(rig.libvirt.qemuPid('count'), 'SIGKILL');
      gate.open();
    }
  };

  const ended = (id: string): Promise<Operation> =>
    rig.target.client
      .waitOperation(id, () => undefined, AbortSignal.timeout(60_000))
      .catch(async (error: unknown) => {
        const { operations } = await rig.target.client.operations({ group: 'shop' });
        const found = operations.find((operation) => operation.id === id);
        if (found?.state === 'failed') return found;
        throw error;
      });

  const cells = Object.entries(boundaries).flatMap(([name, { victims = everyone }]) =>
    victims.map((victim) => [victim, name] as const),
  );

  test.each(cells)(
    '%s is killed when %s',
    async (victim, name) => {
      await failedOver();
      try {
        gate.arm(boundaries[name]!.rule);
        await rig.target.client.startOperation('commit', { kind: 'commit', group: 'shop', arguments: {} });
        await gate.held(name);
        await strike(victim);
        let done = await ended('commit');
        if (done.state === 'failed') {
          // Before the point of no return nothing was changed, and it can be asked for again.
          expect((await rig.target.client.group('shop')).state).toBe('failed-over');
          await waitFor('the VM is not paused', async () => (await rig.libvirt.list('--state-paused')).length === 0);
          done = await rig.run('commit-2', { kind: 'commit', arguments: {} });
        }
        expect(done.state).toBe('succeeded');
        expect((await rig.target.client.group('shop')).state).toBe('committed');
        expect(await rig.target.client.views('shop')).toEqual([]);
        const files = done.result?.['files'] as string[];
        const disks = dirname(files[0]!);
        expect(files).toEqual(['vda', 'vdb'].map((disk) => join(disks, `count-${disk}.raw`)));
        expect(readdirSync(disks).sort()).toEqual(['count-vda.raw', 'count-vdb.raw']);
        for (const flags of (await rig.libvirt.list()).length > 0 ? [[], ['--inactive']] : [['--inactive']])
          for (const disk of ['vda', 'vdb'])
            expect(await domain(...flags)).toContain(`<source file='${disks}/count-${disk}.raw'`);
        expect(await domain('--inactive')).not.toContain('tidemark:owner');
        const alive = (await rig.libvirt.list()).length > 0;
        if (!alive) await rig.libvirt.virsh.run(['start', vmUuid]);
        await counts();
        await rig.libvirt.virsh.run(['destroy', vmUuid]);
        const text = await said();
        expect(text).toMatch(/^\.+$/);
        for (const disk of ['vda', 'vdb']) {
          const counted = readFileSync(join(disks, `count-${disk}.raw`)).readUInt32LE(512) - 1000;
          expect(counted).toBeGreaterThanOrEqual(text.length);
          // What a life wrote last it may not have said.
          expect(counted).toBeLessThanOrEqual(text.length + 4);
        }
      } finally {
        gate.open();
        if (existsSync(rig.target.dataDirectory)) await rig.target.kill();
        await forget();
      }
    },
    180_000,
  );
});
