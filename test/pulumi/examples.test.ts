/** The examples as they are in the repository, by the real CLI and its language hosts, against real agents. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { repositoryRoot } from '../support/paths.js';
import {
  providerDirectory,
  pulumiTools,
  toolsTimeoutMs,
  describePulumi,
  type CommandResult,
} from '../support/pulumi-project.js';
import { waitFor } from '../support/wait.js';
import { openProject, startDisksRig, type DisksRig } from './disks-rig.js';

let rig: DisksRig;
describePulumi('examples', () => {
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeAll(async () => (rig = await startDisksRig()), 120_000);
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  function projectFile(...names: string[]): Record<string, unknown> {
    return parse(readFileSync(join(repositoryRoot(), ...names, 'Pulumi.yaml'), 'utf8')) as Record<string, unknown>;
  }

  async function ok(result: Promise<CommandResult>): Promise<string> {
    const { code, output } = await result;
    if (code !== 0) throw new Error(`ended with ${code}:\n${output}`);
    return output;
  }

  test('yaml: the same group without TypeScript', async () => {
    const { name: _name, plugins: _plugins, ...program } = projectFile('examples', 'yaml');
    const project = await openProject(rig.lab, 'yaml', program);
    const settings = { sourceAgent: 'source', targetApi: `https://${rig.target.addresses.api}`, diskSize: '8MiB' };
    for (const [name, value] of Object.entries(settings)) await project.config(name, value);
    await ok(project.up());
    await waitFor('the group', async () => (await rig.target.client.groups()).length === 1);
    expect(await project.outputs()).toMatchObject({ activeSite: 'amsterdam', state: 'protecting' });
    await ok(project.destroy());
  }, 300_000);

  test('other languages get the schema by the CLI', async () => {
    const project = await openProject(rig.lab, 'schema', { runtime: 'yaml' });
    const text = await project.run('package', 'get-schema', join(providerDirectory(), 'pulumi-resource-tidemark'));
    const { name, resources } = JSON.parse(text) as { name: string; resources: object };
    expect([name, Object.keys(resources).length]).toEqual(['tidemark', 8]);
  }, 300_000);
});
