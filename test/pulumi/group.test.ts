/** A protection group by YAML programs, the real CLI and real agents: declared, changed, failed over, given up. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { pulumiTools, toolsTimeoutMs } from '../support/pulumi-project.js';
import { policy, startDisksRig, type DisksRig } from './disks-rig.js';

beforeAll(() => void pulumiTools(), toolsTimeoutMs);

const outputs = { activeSite: '${shop.activeSite}', state: '${shop.state}', epoch: '${shop.epoch}' };

describe('a life by configuration', () => {
  let rig: DisksRig;
  beforeAll(async () => (rig = await startDisksRig()), 120_000);
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  test('up protects; a second up, a preview and a refresh change nothing', async () => {
    const { project } = rig;
    rig.declare({ waitFor: 'synced' }, { outputs });
    const preview = await project.preview();
    expect(preview.output).toContain('protects shop at site-target');
    const up = await project.up();
    expect([up.code, up.output]).toEqual([0, expect.stringContaining('created')]);
    expect(await project.outputs()).toEqual({ activeSite: 'source', state: 'protecting', epoch: 1 });
    await rig.waitProtecting();
    for (const again of [
      await project.preview('--expect-no-changes'),
      await project.refresh('--expect-no-changes'),
      await project.up('--expect-no-changes'),
    ])
      expect([again.code, again.output]).toEqual([0, expect.stringContaining('unchanged')]);
  }, 120_000);
});
