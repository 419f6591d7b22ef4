import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Operation, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import { tidemark } from '../e2e/cli.js';
import { waitFor } from '../support/wait.js';
import { startRecoveryRig, vmUuid, type RecoveryRig } from './recovery-rig.js';

describe('drill of a VM on libvirt', () => {
  let rig: RecoveryRig;
  beforeAll(async () => {
    // Drills have a network of their own, a failover lacks one.
    rig = await startRecoveryRig({ vm: { networks: [{ from: 'production', live: 'nowhere' }] } });
  }, 120_000);
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  /** Everything that a drill may leave behind. */
  const leftovers = async (): Promise<string[]> => {
    const machines = join(rig.target.dataDirectory, 'machines', 'shop');
    const networks = (await rig.libvirt.virsh.run(['net-list', '--name']))
      .split('\n')
      .filter((name) => /drill/.test(name));
    const views = (await rig.target.client.views('shop')).map(({ id }) => id);
    const { pins } = (await rig.target.client.group('shop')).newestCheckpoint ?? { pins: [] };
    return [
      ...(await rig.libvirt.list('--all')),
      ...networks,
      ...views,
      ...pins.map(({ id }) => id),
      ...(existsSync(machines) ? readdirSync(machines) : []),
    ];
  };

  test('boots in a network of its own, shows evidence, leaves nothing', async () => {
    const drill = await rig.run('first', { kind: 'drill', arguments: { at: { by: 'latest' }, keepMinutes: 0 } });
    expect(drill).toMatchObject({ state: 'succeeded', result: { passed: true, vms: ['count'], disksLeftOut: [] } });
    expect(drill.result).toMatchObject({
      isolation: { forward: 'none', hostAddresses: [] },
      boots: [{ vm: 'count', wave: 1, checks: [] }],
    });
    expect((drill.result?.['isolation'] as { ports: string[] }).ports).toHaveLength(1);
    expect(drill.result?.['firstBootMs']).toBeGreaterThan(0);
    expect(await leftovers()).toEqual([]);
    expect((await rig.target.client.group('shop')).state).toBe('protecting');
  });

  test('several are kept at once, under other names and UUIDs, and end by themselves or when told', async () => {
    const drills = await Promise.all(
      ['a', 'b'].map((id) => rig.run(id, { kind: 'drill', arguments: { at: { by: 'latest' }, keepMinutes: 60 } })),
    );
    const boots = drills.map(({ result }) => (result?.['boots'] as { name: string; uuid: string }[])[0]!);
    expect(new Set(boots.map(({ uuid }) => uuid)).size).toBe(2);
    expect(boots.map(({ uuid }) => uuid)).not.toContain(vmUuid);
    expect((await rig.libvirt.list()).sort()).toEqual(boots.map(({ name }) => name).sort());
    for (const { name } of boots) {
      const xml = await rig.libvirt.virsh.run(['dumpxml', name]);
      const log = /<source path='([^']*serial0.log)'/.exec(xml)?.[1];
      // The guest counts on its view.
      await waitFor(`${name} counts`, () => readFileSync(log!, 'utf8').startsWith('....'), { timeoutMs: 60_000 });
    }
    for (const id of ['a', 'b']) {
      const stop = await rig.run(`stop-${id}`, { kind: 'drill-stop', arguments: { drill: id } });
      expect(stop.state).toBe('succeeded');
    }
    expect(await leftovers()).toEqual([]);
  }, 120_000);

  test('full scratch pauses a VM, and gives its guest no error', async () => {
    const drill = await rig.run('tight', {
      kind: 'drill',
      arguments: { at: { by: 'latest' }, keepMinutes: 60, scratchLimitBytes: 1 },
    });
    const { name } = (drill.result?.['boots'] as { name: string }[])[0]!;
    const log = /<source path='([^']*serial0.log)'/.exec(await rig.libvirt.virsh.run(['dumpxml', name]))![1]!;
    const state = (): Promise<string> => rig.libvirt.virsh.run(['domstate', name, '--reason']);
    await waitFor('it is paused', async () => (await state()).trim() === 'paused (I/O error)', { timeoutMs: 60_000 });
    expect(readFileSync(log, 'utf8')).not.toContain('E');
    expect((await rig.run('stop-tight', { kind: 'drill-stop', arguments: { drill: 'tight' } })).state).toBe(
      'succeeded',
    );
    expect(await leftovers()).toEqual([]);
  }, 120_000);

  test('kill -9 of the agent in the middle: it goes on, and leaves nothing', async () => {
    await rig.target.client.startOperation('killed', {
      kind: 'drill',
      group: 'shop',
      arguments: { at: { by: 'latest' }, keepMinutes: 0 },
    });
    await waitFor('the VM is there', async () => (await rig.libvirt.list('--all')).length > 0);
    await rig.target.kill();
    await rig.target.start();
    const drill = await rig.target.client.waitOperation('killed', () => undefined, AbortSignal.timeout(60_000));
    expect(drill).toMatchObject({ state: 'succeeded', result: { passed: true } });
    expect(await leftovers()).toEqual([]);
  }, 120_000);

  test('its time is over: torn down by the agent alone, although a check still waits; it has failed', async () => {
    const checks = [{ vm: 'count', check: { kind: 'guest-agent', timeoutSeconds: 600 } }] as const;
    const drill = await rig.run('too-long', {
      kind: 'drill',
      arguments: { at: { by: 'latest' }, keepMinutes: 0, checks: [...checks], maxDurationMinutes: 0.1 },
    });
    expect(drill).toMatchObject({ state: 'failed', error: { code: 'timed-out' } });
    expect(await leftovers()).toEqual([]);
  }, 60_000);

  test('a network of a person is proven before anything boots', async () => {
    const { client } = rig.target;
    const { spec } = await client.policy('shop');
    const through = async (testNetwork: string): Promise<void> => {
      await client.declareGroup('shop', { spec: { ...spec, recovery: { ...spec.recovery!, testNetwork } } });
    };
    const drill = (id: string): Promise<Operation> =>
      rig.run(id, { kind: 'drill', arguments: { at: { by: 'latest' }, keepMinutes: 0 } });
    const networks = {
      routed: "<bridge stp='off'/><forward mode='open'/><ip address='198.51.100.1' prefix='24'/>",
      homely: "<bridge stp='off'/><ip address='203.0.113.1' prefix='24'/>",
      quiet: "<bridge stp='off'/>",
    };
    for (const [name, body] of Object.entries(networks)) {
      writeFileSync(rig.lab.path(`${name}.xml`), `<network><name>${name}</name>${body}</network>`);
      await rig.libvirt.virsh.run(['net-create', rig.lab.path(`${name}.xml`)]);
    }
    for (const name of ['routed', 'homely']) {
      await through(name);
      await expect(drill(`in-${name}`)).rejects.toMatchObject({ code: 'network-not-isolated' });
      const { action } = await client.forecast('shop', { action: 'drill' });
      expect(action?.refusals).toMatchObject([{ code: 'network-not-isolated' }]);
    }
    await through('quiet');
    expect(await drill('in-quiet')).toMatchObject({
      state: 'succeeded',
      result: { isolation: null, testNetworks: { quiet: { forward: 'none' } } },
    });
    await client.declareGroup('shop', { spec });
    for (const name of Object.keys(networks)) await rig.libvirt.virsh.run(['net-destroy', name]);
    expect(await leftovers()).toEqual([]);
  }, 60_000);

  test('what a forgotten drill left is found by its mark', async () => {
    const xml = `<domain type='qemu'><name>left</name><uuid>11111111-2222-4333-8444-555555555555</uuid><memory>1024</memory>
      <metadata><t:owner xmlns:t='urn:tidemark:owner:1' agent='target' group='shop' operation='gone' purpose='drill' vm='count'/></metadata>
      <os><type arch='x86_64'>hvm</type></os></domain>`;
    const file = rig.lab.path('left.xml');
    writeFileSync(file, xml);
    await rig.libvirt.virsh.run(['define', file]);
    await waitFor('the sweep removes it', async () => (await rig.libvirt.list('--all')).length === 0, {
      timeoutMs: 40_000,
    });
  }, 60_000);

  test('what cannot be recovered is refused with its property, and nothing is changed', async () => {
    const { client } = rig.target;
    const latest = { by: 'latest' };
    const gone = { by: 'id', checkpoint: 'expired' };
    const old = { by: 'id', checkpoint: '01hk154vr9a6m6rv' };
    const failover = { kind: 'failover', arguments: { at: latest, sourceMayBeAlive: true } };
    const cases: readonly [object, object][] = [
      [failover, { code: 'network-unknown', path: 'recovery.vms[0].networks' }],
      [{ kind: 'failover', arguments: { at: latest, sourceMayBeAlive: false } }, { code: 'illegal-state' }],
      [
        { kind: 'failover', arguments: { at: gone, sourceMayBeAlive: true } },
        { code: 'checkpoint-unknown', path: 'at' },
      ],
      [
        { kind: 'drill', arguments: { at: gone, keepMinutes: 0 } },
        { code: 'checkpoint-unknown', path: 'at' },
      ],
      [
        { kind: 'drill', arguments: { at: old, keepMinutes: 0 } },
        { code: 'checkpoint-expired', path: 'at' },
      ],
      [
        { kind: 'drill', arguments: { at: latest, keepMinutes: 0, vms: ['nobody'] } },
        { code: 'vm-unknown', path: 'arguments.vms' },
      ],
      [
        { kind: 'drill-stop', arguments: { drill: 'never' } },
        { code: 'operation-unknown', path: 'arguments.drill' },
      ],
      [{ kind: 'commit', arguments: {} }, { code: 'illegal-state' }],
      [{ kind: 'rollback', arguments: { keepHours: 1 } }, { code: 'illegal-state' }],
      [{ kind: 'boot', arguments: {} }, { code: 'illegal-state' }],
    ];
    const { epoch } = await client.group('shop');
    let count = 0;
    const ask = (request: object): Promise<Operation> =>
      client.startOperation(`refused-${count++}`, { group: 'shop', ...request } as OperationRequest);
    for (const [request, error] of cases) await expect(ask(request)).rejects.toMatchObject(error);

    // The same id for something else; by whom makes no difference.
    const first = await rig.run('mine', { kind: 'drill-stop', arguments: { drill: 'first' } });
    expect((await rig.run('mine', { kind: 'drill-stop', arguments: { drill: 'first' } })).startedMs).toBe(
      first.startedMs,
    );
    await expect(rig.run('mine', { kind: 'drill-stop', arguments: { drill: 'a' } })).rejects.toMatchObject({
      code: 'operation-conflict',
    });

    await rig.libvirt.killDaemon();
    await expect(ask({ kind: 'drill', arguments: { at: latest, keepMinutes: 0 } })).rejects.toMatchObject({
      code: 'hypervisor-unreachable',
    });
    await rig.libvirt.startDaemon();

    const said = await tidemark(rig.lab, rig.target, 'failover', 'shop', '--source-may-be-alive');
    expect(said.code).not.toBe(0);
    expect(said.stderr).toMatch(/network-unknown.*nowhere.*(map it in recovery|Create the network)/s);
    expect(await client.group('shop')).toMatchObject({ state: 'protecting', epoch });
    expect(await leftovers()).toEqual([]);
    const { operations } = await client.operations({ group: 'shop' });
    expect(operations.filter(({ id }) => id.startsWith('refused'))).toEqual([]);
  }, 60_000);
});
