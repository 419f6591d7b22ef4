/** VMs without an operating system on a real libvirt, driven by configuration: drill, failover with addresses, rollback. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { startRecoveryRig, type RecoveryRig } from '../hypervisor/recovery-rig.js';
import {
  pulumiTools,
  toolsTimeoutMs,
  describePulumi,
  type CommandResult,
  type PulumiProject,
} from '../support/pulumi-project.js';
import { waitFor } from '../support/wait.js';
import { openProject } from './disks-rig.js';

let rig: RecoveryRig;
let project: PulumiProject;
describePulumi('VMs by configuration', () => {
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeAll(async () => {
    rig = await startRecoveryRig();
    project = await openProject(rig.lab, 'program', { runtime: 'yaml' });
  }, 300_000);
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  const recovered = (live: unknown): object => ({
    hypervisor: 'local',
    vms: [
      {
        vm: 'count',
        networks: [{ from: 'production', live: 'production' }],
        addresses: live === undefined ? [] : [{ nic: 0, live }],
      },
    ],
  });

  function declare(
    more: Record<string, unknown> = {},
    resources: Record<string, unknown> = {},
    recovery = recovered(undefined),
  ): void {
    const target = { api: `https://${rig.target.addresses.api}` };
    const disks = ['count-vda', 'count-vdb'].map((name, index) => ({
      name,
      sizeBytes: (16 + 16 * index) << 20,
      stream: 'source',
    }));
    const policy = { streams: ['source'], disks, checkpointIntervalSeconds: 1, recovery };
    const properties = {
      name: 'shop',
      target,
      policy,
      sourceSite: 'berlin',
      sourceAddresses: { count: ['192.0.2.10'] },
      ...more,
    };
    project.program({
      runtime: 'yaml',
      resources: { shop: { type: 'tidemark:ProtectionGroup', properties }, ...resources },
      outputs: { site: '${shop.activeSite}', ip: '${shop.addresses["count"][0]}' },
    });
  }

  async function ok(result: Promise<CommandResult>): Promise<string> {
    const { code, output } = await result;
    if (code !== 0) throw new Error(`ended with ${code}:\n${output}`);
    return output;
  }

  const drill = (request: string, more: object = {}): Record<string, unknown> => ({
    drill: {
      type: 'tidemark:RecoveryDrill',
      properties: { target: { api: `https://${rig.target.addresses.api}` }, group: 'shop', request, ...more },
    },
  });

  /** A preview as text, with what is another in every run left open. */
  function recorded(output: string): string {
    return output
      .replaceAll(/^ +/gm, '')
      .replaceAll(/checkpoint \w+ /g, 'checkpoint ID ')
      .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
      .replaceAll(/\b\d+(\.\d)? s\b/g, 'N s')
      .replaceAll(/full after .* rate|nothing is written now/g, 'RATE');
  }

  const kept = { keepRunning: true, maxDurationMinutes: 0.2 };

  async function saved(): Promise<Readonly<Record<string, unknown>> | undefined> {
    return (await project.resources()).find(({ type }) => type === 'tidemark:index:RecoveryDrill')?.outputs;
  }

  test('an existing group is taken over by import, with its policy', async () => {
    const id = `https://${rig.target.addresses.api}/shop`;
    await ok(
      project.try(
        'import',
        '--yes',
        '--protect=false',
        '--generate-code=false',
        'tidemark:index:ProtectionGroup',
        'shop',
        id,
      ),
    );
    declare();
    expect(await ok(project.up())).not.toContain('replace');
    expect((await rig.target.client.group('shop')).owner).toMatch(/::shop#/);
    expect(await project.outputs()).toEqual({ site: 'berlin', ip: '192.0.2.10' });
  }, 300_000);

  test('a drill is a resource: it runs once, passes, and leaves nothing behind', async () => {
    declare({}, drill('monday'));
    expect(await ok(project.preview())).toContain('wave 1: count');
    await ok(project.up());
    expect(await saved()).toMatchObject({ result: 'passed', evidence: 'shop:monday' });
    expect(await rig.libvirt.list('--all')).toEqual([]);
    await ok(project.up('--expect-no-changes'));
    const { operations } = await rig.target.client.operations({ kind: 'drill' });
    expect(operations.map(({ id }) => id)).toEqual(['shop:monday']);
  }, 300_000);

  test('a check that fails: the update fails when all is torn down, its state saved; it runs again for a new request only', async () => {
    const checks = [{ vm: 'count', check: { kind: 'guest-agent', timeoutSeconds: 1 } }];
    declare({}, drill('tuesday', { checks: [{ ...checks[0]!, vm: 'elsewhere' }] }));
    const refused = await project.preview();
    expect([refused.code === 0, refused.output]).toEqual([false, expect.stringContaining('boots no VM elsewhere')]);
    declare({}, drill('tuesday', { checks }));
    expect(await ok(project.preview())).toContain('checked: the guest agent answers within 1.0 s');
    for (let count = 0; count < 2; count++) {
      const { code, output } = await project.up('--skip-preview');
      expect(output).toContain('vm-not-ready');
      expect(code).not.toBe(0);
    }
    expect(await saved()).toMatchObject({ result: 'failed', evidence: 'shop:tuesday' });
    expect(await rig.libvirt.list('--all')).toEqual([]);
    const { operations } = await rig.target.client.operations({ kind: 'drill' });
    expect(operations.map(({ id }) => id)).toEqual(['shop:tuesday', 'shop:monday']);
  }, 300_000);

  test('kept running, it ends by the timer of the agent with Pulumi gone, and stays passed', async () => {
    declare({}, drill('wednesday', kept));
    await ok(project.up());
    expect(await rig.libvirt.list()).toHaveLength(1);
    await waitFor('the drill is gone', async () => (await rig.libvirt.list('--all')).length === 0, {
      timeoutMs: 40_000,
      everyMs: 200,
    });
    await ok(project.refresh('--expect-no-changes'));
    expect(await saved()).toMatchObject({ result: 'passed', evidence: 'shop:wednesday' });
  }, 300_000);

  test('a failover boots the VM, and the addresses of the stack follow; rolled back, they return', async () => {
    const live = { addresses: ['198.51.100.7/24'] };
    declare({}, drill('wednesday', kept), recovered(live));
    await ok(project.up());
    declare(
      { recovery: { request: 'fire', action: 'failover', sourceMayBeAlive: true } },
      drill('wednesday', kept),
      recovered(live),
    );
    const preview = await ok(project.preview());
    expect(recorded(preview)).toContain(
      [
        'failover of shop at site-target (request fire)',
        'checkpoint ID (crash) of TIME',
        'data lost: the last N s',
        'wave 1: count (loses N s; production -> production; nic 0: 198.51.100.7/24)',
        'ready after about N s (median of 2)',
        'until commit or rollback its writes go to scratch: 10.0 GiB, RATE',
      ].join('\n'),
    );
    expect(preview).toMatch(/ip\s*: "192.0.2.10" => "198.51.100.7"/);
    // No guest agent could set that address here: the VM keeps its own.
    declare({}, drill('wednesday', kept));
    await ok(project.up());
    declare({ recovery: { request: 'fire', action: 'failover', sourceMayBeAlive: true } }, drill('wednesday', kept));
    await ok(project.up());
    expect(await project.outputs()).toEqual({ site: 'site-target', ip: '192.0.2.10' });
    expect(await rig.libvirt.list()).toEqual(['count']);
    await ok(project.refresh('--expect-no-changes'));
    declare({ recovery: { request: 'calm', action: 'rollback' } }, drill('wednesday', kept));
    await ok(project.up());
    expect(await project.outputs()).toMatchObject({ site: 'berlin' });
    expect(await rig.libvirt.list('--all')).toEqual([]);
  }, 300_000);
});
