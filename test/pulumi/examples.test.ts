/** The examples as they are in the repository, by the real CLI and its language hosts, against real agents. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { DemoStack } from '../../examples/demo/stack.js';
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

  test("demo: its program's preview, told line by line", async () => {
    const lines: string[] = [];
    const say = (text: string): void => void lines.push(text);
    const { lab, source, target } = rig;
    await using stack = await DemoStack.open({
      ...{ lab, amsterdam: source, frankfurt: target },
      disks: { db: { vda: 1 << 20, vdb: 1 << 20, vdc: 1 << 20 }, client: { vda: 1 << 20, vdb: 1 << 20 } },
      screen: { command: say, quote: say, during: (_label, work) => work(() => undefined) },
    });
    await stack.preview();
    expect(lines[0]).toBe('pulumi preview');
    for (const line of ['+ ProtectedApplication shop', '+ ProtectionGroup shop', '+ SourceGroup shop'])
      expect(lines.filter((each) => each === line)).toHaveLength(1);
    expect(lines).toContain('captures VM db, VM client as shop, sent to target');
    expect(lines).toContain('activeSite: "amsterdam"');
    await expect(stack.ask({ request: 'one', action: 'sleep' as never }).then(() => stack.preview())).rejects.toThrow(
      'recovery.action',
    );
  }, 120_000);

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

  test('failover in CI: the script of the jobs previews, fails over once, and rolls back', async () => {
    const { name: _name, plugins: _plugins, ...program } = projectFile('examples', 'failover-in-ci');
    const folder = join(repositoryRoot(), 'examples', 'failover-in-ci');
    const project = await openProject(rig.lab, 'ci', { ...program, main: folder });
    const settings = { sourceAgent: 'source', targetAgent: 'target', diskSize: '8MiB' };
    const all = { ...settings, targetApi: `https://${rig.target.addresses.api}` };
    for (const [name, value] of Object.entries(all)) await project.config(`failover-in-ci:${name}`, value);
    await ok(project.up());
    await rig.source.start();
    await rig.waitProtecting();
    const files = { GITHUB_OUTPUT: rig.lab.path('ci-output'), GITHUB_STEP_SUMMARY: rig.lab.path('ci-summary') };
    const job = (step: string, REQUEST: string, ACTION: string): Promise<string> =>
      project.script(join(folder, 'transition.sh'), [step], {
        ...{ ...files, STACK: 'dev', REQUEST, ACTION },
        ...(ACTION === 'failover' ? { SOURCE_MAY_BE_ALIVE: 'true', MAX_DATA_LOSS: '600' } : {}),
      });
    await job('preview', 'run-7', 'failover');
    expect(readFileSync(files.GITHUB_STEP_SUMMARY, 'utf8')).toMatch(
      /### failover of dev \(run-7\)[^]*data lost: the last/,
    );
    for (let count = 0; count < 2; count++) await job('up', 'run-7', 'failover');
    expect(readFileSync(files.GITHUB_OUTPUT, 'utf8')).toContain('activeSite=site-target\nstate=failed-over\n');
    const { operations } = await rig.target.client.operations({ group: 'shop', kind: 'failover' });
    expect(operations.map(({ id }) => id)).toEqual(['shop:run-7']);
    await job('up', 'run-8', 'rollback');
    expect(await project.outputs()).toMatchObject({ activeSite: 'amsterdam', lastOperation: 'shop:run-8' });
    await ok(project.destroy());
  }, 300_000);

  test('the workflow runs that script', () => {
    const workflow = readFileSync(
      join(repositoryRoot(), 'examples', 'failover-in-ci', '.github', 'workflows', 'transition.yaml'),
      'utf8',
    );
    const { jobs } = parse(workflow) as { jobs: Record<string, { steps: { run?: string }[] }> };
    expect(Object.entries(jobs).map(([name, { steps }]) => [name, steps[1]?.run])).toEqual([
      ['preview', './transition.sh preview'],
      ['up', './transition.sh up'],
    ]);
  });

  test('other languages get the schema by the CLI', async () => {
    const project = await openProject(rig.lab, 'schema', { runtime: 'yaml' });
    const text = await project.run('package', 'get-schema', join(providerDirectory(), 'pulumi-resource-tidemark'));
    const { name, resources } = JSON.parse(text) as { name: string; resources: object };
    expect([name, Object.keys(resources).length]).toEqual(['tidemark', 8]);
  }, 300_000);
});
