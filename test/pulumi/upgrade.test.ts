/**
 * State that an older package wrote goes on under this one. `samples/state-57fff72.json` is `pulumi stack export` of the
 * provider of that commit, behind a failover; addresses and paths of its laboratory are left open in it.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from '../support/paths.js';
import { describePulumi, providerDirectory, pulumiTools, toolsTimeoutMs } from '../support/pulumi-project.js';
import { policy, startDisksRig, type DisksRig } from './disks-rig.js';

interface Sample {
  readonly deployment: {
    readonly resources: readonly { readonly type: string; readonly outputs: { owner?: string } }[];
  };
}

let rig: DisksRig;
describePulumi('an older package', () => {
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeAll(async () => (rig = await startDisksRig()), 120_000);
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  test('its state is no change, is refreshed, and the next request is run from it', async () => {
    const { project, target, source, lab } = rig;
    const sample = readFileSync(join(repositoryRoot(), 'test', 'pulumi', 'samples', 'state-57fff72.json'), 'utf8')
      .replaceAll('AGENT', target.addresses.api)
      .replaceAll('LABORATORY', lab.directory)
      .replaceAll('PROVIDER', providerDirectory());
    const { resources } = (JSON.parse(sample) as Sample).deployment;
    const owner = resources.find(({ type }) => type === 'tidemark:index:ProtectionGroup')!.outputs.owner!;
    await target.client.declareGroup('shop', { spec: policy() as never, owner });
    await source.start();
    await rig.waitProtecting();
    await target.client.startOperation('shop:r1', {
      kind: 'failover',
      group: 'shop',
      arguments: { sourceMayBeAlive: true },
    });
    await target.client.waitOperation('shop:r1', () => undefined, AbortSignal.timeout(60_000));
    const file = lab.path('sample.json');
    writeFileSync(file, sample);
    await project.run('stack', 'import', '--file', file);

    const inputs = { sourceSite: 'berlin', deletionGraceDays: 3 };
    const declare = (request: string, action: string): void =>
      rig.declare({ ...inputs, recovery: { request, action, sourceMayBeAlive: true } });
    const ok = async (result: ReturnType<typeof project.up>): Promise<void> => {
      const { code, output } = await result;
      if (code !== 0) throw new Error(`ended with ${code}:\n${output}`);
    };
    const group = async (): Promise<unknown> =>
      (await project.resources()).find(({ type }) => type === 'tidemark:index:ProtectionGroup')?.outputs;
    declare('r1', 'failover');
    await ok(project.preview('--expect-no-changes'));
    await ok(project.refresh());
    expect(await group()).toMatchObject({ activeSite: 'site-target', targetSite: 'site-target', reversed: false });
    await ok(project.preview('--expect-no-changes'));
    declare('r2', 'rollback');
    await ok(project.up());
    expect(await group()).toMatchObject({ activeSite: 'berlin', requests: ['r1', 'r2'], lastOperation: 'shop:r2' });
  }, 300_000);
});
