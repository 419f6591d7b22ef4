/** A protection group by YAML programs, the real CLI and real agents: declared, changed, failed over, given up. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { join } from 'node:path';
import { pulumiTools, toolsTimeoutMs, describePulumi, type CommandResult } from '../support/pulumi-project.js';
import { waitFor } from '../support/wait.js';
import { openProject, policy, startDisksRig, type DisksRig, type Program } from './disks-rig.js';

describePulumi('a protection group by configuration', () => {
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);

  const outputs = { activeSite: '${shop.activeSite}', state: '${shop.state}', epoch: '${shop.epoch}' };
  const atSource = { activeSite: 'source', state: 'protecting' };
  const atTarget = { activeSite: 'site-target', state: 'failed-over' };

  let rig: DisksRig;
  beforeAll(async () => (rig = await startDisksRig()), 120_000);
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  const declare = (inputs: Record<string, unknown> = {}, more: Program = {}): void =>
    rig.declare({ waitFor: 'synced', ...inputs }, { outputs, ...more });
  const failover = (request: string): Record<string, unknown> => ({
    recovery: { request, action: 'failover', sourceMayBeAlive: true },
  });
  const epoch = async (): Promise<number> => (await rig.target.client.group('shop')).epoch!.epoch;

  /** Outputs of the group's resource in the state. */
  async function group(): Promise<Record<string, unknown>> {
    const resources = await rig.project.resources();
    return { ...resources.find(({ type }) => type === 'tidemark:index:ProtectionGroup')?.outputs };
  }

  async function succeeds(result: Promise<CommandResult>, ...texts: string[]): Promise<string> {
    const { code, output } = await result;
    if (code !== 0) throw new Error(`ended with ${code}:\n${output}`);
    for (const text of texts) expect(output).toContain(text);
    return output;
  }

  async function fails(result: Promise<CommandResult>, ...texts: string[]): Promise<void> {
    const { code, output } = await result;
    for (const text of texts) expect(output).toContain(text);
    expect(code).not.toBe(0);
  }

  test('up protects; a second up, a preview and a refresh change nothing', async () => {
    const { project, source, target } = rig;
    declare();
    await succeeds(project.preview(), 'protects shop at site-target');
    const up = succeeds(project.up());
    await Promise.race([up, waitFor('the group is declared', () => target.client.group('shop'))]);
    await source.start();
    await up;
    expect(await project.outputs()).toMatchObject({ ...atSource, epoch: 1 });
    await succeeds(project.preview('--expect-no-changes'));
    await succeeds(project.refresh('--expect-no-changes'));
    await succeeds(project.up('--expect-no-changes'));
  }, 300_000);

  test('wrong inputs are all named by their paths, before anything is asked', async () => {
    declare({
      policy: policy({
        disks: [{ name: 'Data', sizeBytes: 7, stream: 'other' }],
        recovery: {
          hypervisor: 'local',
          vms: [{ vm: 'db', addresses: [{ nic: 0, live: { addresses: ['10.0.0.300/8'] } }] }],
        },
      }),
      recovery: { request: 'a b', action: 'explode' },
      waitFor: 'Godot',
    });
    await fails(
      rig.project.preview(),
      ...['policy.disks[0].name', 'policy.disks[0].sizeBytes', 'policy.recovery.vms[0].addresses[0].live'],
      ...['recovery.request', 'recovery.action', 'waitFor'],
    );
  }, 300_000);

  test('a change of the policy is shown before it happens, and is an update', async () => {
    const { project } = rig;
    declare({ policy: policy({ history: { windowSeconds: 3600, tiers: [], hardLimitBytes: '1GiB' } }) });
    const shown = await succeeds(project.preview(), 'policy of shop, revision 1 -> 2', 'history: all', 'of 1.0 GiB');
    expect(shown).not.toContain('replace');
    await succeeds(project.up());
    expect((await rig.target.client.policy('shop')).spec.history.windowSeconds).toBe(3600);
    // The same in other words.
    declare({ policy: policy({ history: { windowSeconds: 3600, tiers: [], hardLimitBytes: 1024 ** 3 } }) });
    await succeeds(project.preview('--expect-no-changes'));
    declare({
      policy: policy({ streams: ['elsewhere'], disks: [{ name: 'data', sizeBytes: 4096, stream: 'elsewhere' }] }),
    });
    await fails(project.preview(), 'policy.streams', 'never replaced');
    const named = { target: { api: `https://${rig.target.addresses.api}` }, group: 'shop' };
    const invoke = (name: string, more: object = {}): object => ({
      'fn::invoke': { function: `tidemark:${name}`, arguments: { ...named, ...more } },
    });
    declare(
      {},
      {
        variables: {
          status: invoke('getStatus'),
          list: invoke('getCheckpoints', { limit: 2 }),
          move: invoke('getForecast', { action: 'commit' }),
        },
        outputs: { state: '${status.state}', newest: '${list.checkpoints[0].kind}', legal: '${move.legalActions}' },
      },
    );
    await succeeds(project.up());
    expect(await project.outputs()).toEqual({ state: 'protecting', newest: 'crash', legal: ['failover', 'move'] });
    declare();
    await succeeds(project.up());
  }, 300_000);

  describe('a transition is a request', () => {
    test('failover by configuration: the preview shows the loss and the site, up does it once', async () => {
      const { project } = rig;
      declare(failover('r1'));
      const preview = await succeeds(project.preview('--diff'), 'failover of shop at site-target (request r1)');
      expect(preview).toMatch(/checkpoint \w+ \(crash\) of 20.*\n\s+data lost: the last \d+\.\d s/);
      expect(preview).toMatch(/activeSite\s*: "source" => "site-target"/);
      expect(await project.outputs()).toMatchObject(atSource);
      await succeeds(project.up());
      expect(await project.outputs()).toMatchObject({ ...atTarget, epoch: 2 });
      expect(await rig.target.client.operation('shop:r1')).toMatchObject({ kind: 'failover', state: 'succeeded' });
      await succeeds(project.up('--expect-no-changes'));
      await succeeds(project.refresh('--expect-no-changes'));
    }, 300_000);

    test('an illegal one fails in the preview and names the legal ones', async () => {
      declare(failover('r2'));
      await fails(rig.project.preview(), 'failover is not possible', 'Legal now: rollback, commit');
      declare({ recovery: { request: 'r1', action: 'commit' } });
      await fails(rig.project.preview(), 'r1 was a failover of shop');
    }, 300_000);

    test('removed, it does nothing; rolled back; reverted to the old one, it does nothing', async () => {
      const { project } = rig;
      declare();
      await succeeds(project.up());
      expect(await project.outputs()).toMatchObject({ ...atTarget, epoch: 2 });
      declare({ recovery: { request: 'r3', action: 'rollback' } });
      await succeeds(project.preview(), 'rollback of shop');
      await succeeds(project.up());
      expect(await project.outputs()).toMatchObject({ ...atSource, epoch: 3 });
      declare(failover('r1'));
      await succeeds(project.up());
      expect(await project.outputs()).toMatchObject({ ...atSource, epoch: 3 });
      // What comes too late between a look and a deed the agent itself refuses.
      const { client } = rig.target;
      const { spec } = await client.policy('shop');
      const late = { kind: 'rollback', group: 'shop', arguments: {}, expect: { epoch: 2 } } as const;
      for (const [code, ask] of [
        ['stale-epoch', () => client.declareGroup('shop', { spec, expect: { epoch: 2 } })],
        ['stale-revision', () => client.declareGroup('shop', { spec, expect: { epoch: 3, policyRevision: 0 } })],
        ['stale-epoch', () => client.startOperation('late', late)],
        ['stale-epoch', () => client.removeGroup('shop', { epoch: 2 })],
      ] as const)
        await expect(ask()).rejects.toMatchObject({ code });
      declare();
      await succeeds(project.up());
    }, 300_000);

    test('more loss than allowed, another site, and a living source are refused in the preview', async () => {
      declare({ recovery: { request: 'r4', action: 'failover', to: 'mars', sourceMayBeAlive: true } });
      await fails(rig.project.preview(), 'recovery.to: a failover of shop goes to site-target');
      declare({ recovery: { request: 'r4', action: 'failover', maxDataLossSeconds: 0, sourceMayBeAlive: true } });
      await fails(rig.project.preview(), 'more than maxDataLossSeconds 0');
      await fails(rig.project.up('--skip-preview'), 'more than maxDataLossSeconds 0; nothing was changed');
      expect(await rig.target.client.group('shop')).toMatchObject({ state: 'protecting', epoch: { epoch: 3 } });
      declare({ recovery: { request: 'r4', action: 'failover' } });
      await fails(rig.project.preview(), 'is connected: stop it, or say that it may be alive');
      declare();
    }, 300_000);
  });

  describe('nothing loses history', () => {
    test('a rename without alias is refused, with alias it is an update; --replace leaves the group and its history', async () => {
      const { project } = rig;
      const named = (options: Record<string, unknown>): void =>
        rig.declare({ waitFor: 'synced' }, { resource: 'web', options });
      named({});
      await fails(project.up(), 'aliases', 'pulumi import');
      named({ aliases: [{ name: 'shop' }] });
      await succeeds(project.up());
      expect((await rig.target.client.group('shop')).owner).toMatch(/::web#[0-9a-f]{8}$/);
      await succeeds(project.preview('--expect-no-changes'));
      const [resource] = (await project.resources()).filter(({ type }) => type === 'tidemark:index:ProtectionGroup');
      const oldest = async (): Promise<number> => (await rig.target.client.group('shop')).journal!.oldestCheckpointMs!;
      const before = await oldest();
      await succeeds(project.up('--replace', resource!.urn), 'shop stays');
      expect(await oldest()).toBe(before);
      expect(await rig.target.client.operation('shop:r1')).toMatchObject({ state: 'succeeded' });
      await succeeds(project.preview('--expect-no-changes'));
      const pki = (file: string): string => join(rig.lab.pkiDirectory, file);
      const files = { certificate: pki('operator.crt'), key: pki('operator.key'), authority: pki('ca.crt') };
      const other = { type: 'pulumi:providers:tidemark', properties: { ...files, timeoutSeconds: 20 } };
      const options = { aliases: [{ name: 'web' }], provider: '${other}' };
      declare({}, { options, resources: { other } });
      expect(await succeeds(project.up())).not.toContain('replace');
      expect(await oldest()).toBe(before);
      expect(await epoch()).toBeGreaterThan(1);
    }, 300_000);

    test('a stack built anew takes its group over; an old request is not run again, a new one is refused', async () => {
      const again = await openProject(rig.lab, 'again', { runtime: 'yaml' });
      const here = rig.project;
      const before = await epoch();
      const inputs = { name: 'shop', target: { api: `https://${rig.target.addresses.api}` }, policy: policy() };
      const program = (more: object): void =>
        again.program({
          runtime: 'yaml',
          resources: { shop: { type: 'tidemark:ProtectionGroup', properties: { ...inputs, ...more } } },
        });
      program(failover('unheard-of'));
      await fails(again.up(), 'is not in the operation log of shop');
      program(failover('r1'));
      await succeeds(again.up());
      expect(await epoch()).toBe(before);
      await succeeds(here.refresh());
      expect(await group()).toMatchObject(atSource);
    }, 300_000);

    test('an agent that cannot be reached: the last state is shown as stale, nothing is gone', async () => {
      const { project, target } = rig;
      await target.kill();
      await succeeds(project.preview('--expect-no-changes'));
      await succeeds(project.refresh(), 'The last known state is shown');
      expect(await group()).toMatchObject({ stale: true, state: 'protecting', activeSite: 'source' });
      await fails(project.destroy(), 'cannot reach');
      await target.start();
      await succeeds(project.refresh());
      expect(await group()).toMatchObject({ stale: false });
    }, 300_000);

    test('the source is dead: failover, commit, destroy; refused while a view is live', async () => {
      const { project, source } = rig;
      declare();
      await succeeds(project.up());
      await source.kill();
      await succeeds(project.preview('--expect-no-changes'));
      declare({ recovery: { request: 'r9', action: 'failover' } });
      await succeeds(project.preview(), 'data lost: the last');
      await succeeds(project.up());
      await fails(project.destroy(), 'runs a live view');
      declare({ recovery: { request: 'r10', action: 'commit' } });
      await succeeds(project.up());
      expect(await project.outputs()).toMatchObject({ activeSite: 'site-target', state: 'committed' });
      await succeeds(project.destroy());
    }, 300_000);

    test('a removed group is kept, and comes back by import with its history and its operations', async () => {
      const { project, target } = rig;
      const kept = async (): Promise<number[]> =>
        (await target.client.retiredGroups()).flatMap(({ untilMs }) => untilMs ?? []);
      expect(await target.client.groups()).toEqual([]);
      const [untilMs] = await kept();
      expect(untilMs! - Date.now()).toBeGreaterThan(6.9 * 86_400_000);
      declare();
      await succeeds(project.preview(), '`pulumi import` takes it back with its history');
      const id = `https://${target.addresses.api}/shop`;
      const flags = ['--yes', '--protect=false', '--generate-code=false'];
      await succeeds(project.try('import', ...flags, 'tidemark:index:ProtectionGroup', 'shop', id));
      expect([await group(), await target.client.groups()]).toMatchObject([{ state: 'retired' }, []]);
      declare(failover('unheard-of'));
      await fails(project.up('--skip-preview'), 'has only just taken the group over');
      expect(await group()).toMatchObject({ state: 'committed', imported: true });
      declare(failover('r1'));
      await succeeds(project.up());
      expect(await project.outputs()).toMatchObject({ activeSite: 'site-target', state: 'committed' });
      expect(await target.client.operation('shop:r1')).toMatchObject({ state: 'succeeded' });
      expect(await kept()).toEqual([]);
      await succeeds(project.preview('--expect-no-changes'));

      // Removed by hand it is no reason to begin anew; and forceDestroy counts only when an update has applied it.
      await target.client.removeGroup('shop');
      await succeeds(project.refresh());
      declare({ ...failover('r1'), forceDestroy: true });
      await succeeds(project.up());
      expect((await target.client.group('shop')).state).toBe('committed');
      await succeeds(project.destroy());
      expect((await kept()).every((ms) => ms <= Date.now())).toBe(true);
    }, 300_000);
  });
});
