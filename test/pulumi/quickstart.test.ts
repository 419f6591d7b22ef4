/** The root project: one `pulumi up` makes two appliances on this machine and protects a disk from one to the other. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { AgentClient } from '../../components/index.js';
import { agentPid, applianceBundle, endAppliances } from '../support/appliances.js';
import { Laboratory } from '../support/laboratory.js';
import { repositoryRoot } from '../support/paths.js';
import {
  describePulumi,
  PulumiProject,
  pulumiTools,
  toolsTimeoutMs,
  type CommandResult,
} from '../support/pulumi-project.js';
import { makeSparseFile } from '../support/tools.js';
import { waitFor } from '../support/wait.js';

interface Outputs {
  readonly api: { readonly there: string };
  readonly operator: { readonly certificate: string; readonly key: string; readonly authority: string };
}

describePulumi('quickstart', () => {
  let lab: Laboratory;
  let project: PulumiProject;
  let directory: string;
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeAll(async () => {
    lab = await Laboratory.open();
    directory = lab.path('q', 'x').slice(0, -2);
    const {
      name: _name,
      plugins: _plugins,
      main,
      ...program
    } = parse(readFileSync(join(repositoryRoot(), 'Pulumi.yaml'), 'utf8')) as Record<string, unknown>;
    const home = lab.path('project', 'x').slice(0, -2);
    mkdirSync(home, { recursive: true });
    project = await PulumiProject.open({
      directory: home,
      program: { ...program, main: join(repositoryRoot(), String(main)) },
      config: {
        'quickstart:directory': directory,
        // Below the ports that connections take.
        'quickstart:port': String(20_000 + (process.pid % 900) * 12),
        'quickstart:file': makeSparseFile(lab.path('data.raw'), 8 * 1024 * 1024),
        'quickstart:size': '8MiB',
        'quickstart:bundle': await applianceBundle(lab, 'one'),
      },
    });
  }, 120_000);
  afterAll(async () => {
    if (directory !== undefined) endAppliances(directory);
    await lab?.close();
  });

  async function ok(result: Promise<CommandResult>): Promise<string> {
    const { code, output } = await result;
    if (code !== 0) throw new Error(`ended with ${code}:\n${output}`);
    return output;
  }
  const ask = async (request: string, action: string): Promise<void> => {
    await project.config('quickstart:recovery.request', request, '--path');
    await project.config('quickstart:recovery.action', action, '--path');
    await project.config('quickstart:recovery.sourceMayBeAlive', 'true', '--path');
  };

  test('one update makes everything from nothing; the next has nothing to do', async () => {
    expect(await ok(project.up())).toContain('17 to create');
    expect(await project.outputs()).toMatchObject({ activeSite: 'amsterdam', state: 'protecting' });
    await ok(project.refresh('--expect-no-changes'));
    await ok(project.up('--expect-no-changes'));
  }, 300_000);

  test('no private key is in the state, in a log or in a preview', async () => {
    const state = readFileSync(join(project.directory, 'state', '.pulumi', 'stacks', 'demo', 'dev.json'), 'utf8');
    const { operator } = await project.outputs<Outputs>();
    const log = readFileSync(join(directory, 'there', 'agent.log'), 'utf8');
    const preview = await ok(project.preview('--diff'));
    for (const text of ['PRIVATE KEY', operator.key.split('\n')[1]!])
      for (const place of [state, log, preview]) expect(place).not.toContain(text);
  }, 300_000);

  test('a failover is previewed and done, and undone', async () => {
    await ask('ticket-7', 'failover');
    expect(await ok(project.preview())).toContain('data lost: the last');
    await ok(project.up('--skip-preview'));
    expect(await project.outputs()).toMatchObject({ activeSite: 'frankfurt', state: 'failed-over' });
    await ask('ticket-8', 'rollback');
    await ok(project.up('--skip-preview'));
    expect(await project.outputs()).toMatchObject({ activeSite: 'amsterdam', state: 'protecting' });
  }, 300_000);

  test('another executable is an upgrade in place, said before it happens', async () => {
    const before = agentPid(join(directory, 'here'));
    await project.config('quickstart:bundle', await applianceBundle(lab, 'two'));
    const output = await ok(project.up());
    expect(output).toContain('upgrades the agent here in place');
    expect(output).not.toContain('replace');
    expect(agentPid(join(directory, 'here'))).not.toBe(before);
    expect(readdirSync(join(directory, 'here', 'bundles'))).toHaveLength(2);
  }, 300_000);

  test('an agent that is killed is started again', async () => {
    const here = join(directory, 'here');
    const before = agentPid(here)!;
    process.kill(before, 'SIGKILL');
    await waitFor('another agent', () => agentPid(here) !== undefined && agentPid(here) !== before);
  }, 60_000);

  test('an agent that somebody else needs is not taken away', async () => {
    const { api, operator } = await project.outputs<Outputs>();
    const client = new AgentClient({ url: api.there, ...operator });
    const disks = [{ name: 'data', sizeBytes: 4096, stream: 'elsewhere' }];
    await client.declareGroup('other', { spec: { streams: ['elsewhere'], disks } });
    const { code, output } = await project.destroy();
    expect([code === 0, output.includes('still has other (initial)')]).toEqual([false, true]);
    expect(agentPid(join(directory, 'there'))).toBeDefined();
    await client.removeGroup('other');
    client.close();
  }, 300_000);

  test('destroy ends both agents and leaves the journals', async () => {
    await ok(project.destroy());
    for (const name of ['here', 'there']) {
      expect(agentPid(join(directory, name))).toBeUndefined();
      expect(readdirSync(join(directory, name))).toEqual(['data']);
    }
    expect(existsSync(join(directory, 'there', 'data', 'groups'))).toBe(true);
  }, 300_000);
});
