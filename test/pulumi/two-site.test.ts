/** The two-site example: agents are put on two hosts over SSH, upgraded, lost and removed. The hosts are sshds on loopback. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
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
import { keyPair, startSshServer, whyNoSshServer, type SshServer } from '../support/ssh-server.js';
import { makeSparseFile } from '../support/tools.js';

const MiB = 1024 * 1024;
const reason = whyNoSshServer() ?? (existsSync('/dev/loop-control') ? undefined : 'there are no loop devices');
const describeSsh =
  reason === undefined
    ? describePulumi
    : (title: string, tests: () => void): void => describe.skip(`${title} (skipped: ${reason})`, tests);

describeSsh('two sites over SSH', () => {
  let lab: Laboratory;
  let project: PulumiProject;
  let near: SshServer;
  let far: SshServer;
  let userKey: string;
  let device: string;
  let source: Record<string, unknown>;
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeAll(async () => {
    lab = await Laboratory.open();
    userKey = keyPair(lab.path('user.key'));
    [near, far] = [await startSshServer(lab, 'near-host', userKey), await startSshServer(lab, 'far-host', userKey)];
    device = run('losetup', '--find', '--show', makeSparseFile(lab.path('device.raw'), 512 * MiB));
    const example = join(repositoryRoot(), 'examples', 'two-site');
    const {
      name: _name,
      plugins: _plugins,
      ...program
    } = parse(readFileSync(join(example, 'Pulumi.yaml'), 'utf8')) as Record<string, unknown>;
    const home = join(lab.directory, 'project');
    mkdirSync(home);
    project = await PulumiProject.open({
      directory: home,
      program: { ...program, main: example },
      config: { 'two-site:bundle': await applianceBundle(lab, 'one'), 'two-site:readySeconds': '60' },
    });
    await project.run('config', 'set', '--secret', 'two-site:privateKey', '--', readFileSync(userKey, 'utf8'));
    const port = 20_000 + (process.pid % 900) * 12;
    source = { ...place('near', near), site: 'amsterdam', apiPort: port, streamPort: port + 1 };
    await site('source', source);
    await site('target', { ...place('far', far), site: 'frankfurt', apiPort: port + 2, streamPort: port + 3, device });
    const disk = { file: makeSparseFile(lab.path('data.raw'), 8 * MiB), size: '8MiB' };
    await project.config('two-site:disks', JSON.stringify({ data: disk }));
  }, 120_000);
  afterAll(async () => {
    if (lab === undefined) return;
    endAppliances(lab.directory);
    await lab.processes.end();
    // Its mounts went with the last process that saw them.
    if (device !== undefined) run('losetup', '--detach', device);
    await lab.close();
  });

  function place(name: string, { port, hostKey, user }: SshServer): Record<string, unknown> {
    return { ...{ address: '127.0.0.1', port, hostKey, user, listenAddress: '127.0.0.1' }, directory: directory(name) };
  }
  const directory = (name: string): string => join(lab.directory, name);
  const site = (name: string, settings: Record<string, unknown>): Promise<void> =>
    project.config(`two-site:${name}`, JSON.stringify(settings));

  async function ok(result: Promise<CommandResult>): Promise<string> {
    const { code, output } = await result;
    if (code !== 0) throw new Error(`ended with ${code}:\n${output}`);
    return output;
  }
  async function fails(result: Promise<CommandResult>, ...texts: string[]): Promise<void> {
    const { code, output } = await result;
    for (const text of texts) expect(output).toContain(text);
    expect(code).not.toBe(0);
  }

  test('a host with another key is not talked to, a device that is not empty is not formatted', async () => {
    await site('source', { ...source, hostKey: far.hostKey });
    run('mkfs.ext4', '-q', device);
    const before = digest(device);
    await fails(project.up('--skip-preview'), 'host-key-mismatch', 'device-not-empty', 'blkid:', 'not formatted');
    expect(existsSync(directory('near'))).toBe(false);
    expect(digest(device)).toBe(before);
    await site('source', source);
    // Without a signature it may be somebody's all the same.
    run('wipefs', '-q', '-a', device);
    await fails(
      project.up('--skip-preview', '--target', '**journal'),
      'device-not-empty',
      'its first MiB is not zeros',
    );
    run('blkdiscard', device);
  }, 300_000);

  test('installs both, formats the empty device, protects; no key shows anywhere', async () => {
    const secret = readFileSync(userKey, 'utf8').split('\n')[2]!;
    let shown = '';
    const look = setInterval(() => (shown ||= processList().find((line) => line.includes(secret)) ?? ''), 20);
    const output = await ok(project.up('--skip-preview')).finally(() => clearInterval(look));
    expect(await project.outputs()).toEqual({ activeSite: 'amsterdam', addresses: {}, state: 'protecting' });
    expect(shown).toBe('');
    const state = readFileSync(join(project.directory, 'state', '.pulumi', 'stacks', 'demo', 'dev.json'), 'utf8');
    for (const text of [secret, 'PRIVATE KEY']) for (const place of [output, state]) expect(place).not.toContain(text);
    const pid = agentPid(directory('far'));
    expect(readFileSync(`/proc/${pid}/mounts`, 'utf8')).toContain(`${device} ${directory('far-journal')} xfs`);
    // Only the host has it mounted.
    expect(readdirSync(directory('far-journal'))).toEqual([]);
    await ok(project.refresh('--expect-no-changes'));
    await ok(project.up('--expect-no-changes'));
  }, 300_000);

  test('an executable that does not work is taken back, one that works is an upgrade', async () => {
    const here = agentPid(directory('near'));
    const bad = lab.path('bundles', 'tidemark-bad');
    writeFileSync(bad, '#!/bin/sh\n[ "$1" = config ] && exit\necho broken >&2\nexit 3\n', { mode: 0o755 });
    await project.config('two-site:bundle', bad);
    await fails(project.up('--skip-preview', '--target', '**near'), 'ends again and again', 'runs again', 'broken');
    expect(agentPid(directory('near'))).not.toBe(here);
    expect(executable('near')).toContain('# one');
    await project.config('two-site:bundle', await applianceBundle(lab, 'two'));
    await ok(project.up('--skip-preview'));
    expect(executable('near')).toContain('# two');
  }, 300_000);

  test('a dead host is shown as it was, and its destroy goes on without it; the journal stays', async () => {
    endAppliances(directory('near'));
    await near.process.kill('SIGKILL');
    const refreshed = await ok(project.refresh());
    expect(refreshed).toContain('The last known state is shown');
    expect(await project.outputs()).toMatchObject({ activeSite: 'amsterdam', state: 'protecting' });
    const resources = await project.resources();
    const stale = resources
      .filter(({ outputs }) => outputs?.['stale'] === true)
      .map(({ urn }) => urn.split('::').at(-1));
    expect(stale.toSorted()).toEqual(['far-near', 'near', 'shop']);
    const destroyed = await ok(project.destroy());
    expect(destroyed).toContain('Forgotten as it is, appliance near');
    expect(destroyed).toContain('The journals in');
    expect(agentPid(directory('far'))).toBeUndefined();
    expect(existsSync(directory('far'))).toBe(false);
    // The file system is there as it was, with what was protected.
    const look = 'mount -o ro "$1" /mnt && ls /mnt/data';
    expect(run('unshare', '--mount', 'sh', '-c', look, 'sh', device).split('\n')).toContain('groups');
  }, 300_000);

  const executable = (name: string): string => readFileSync(join(directory(name), 'current', 'tidemark'), 'utf8');
});

function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', timeout: 30_000 }).trim();
}

function digest(file: string): string {
  return run('sh', '-c', 'head -c 16777216 "$1" | sha256sum', 'sh', file);
}

function processList(): string[] {
  return globSync('/proc/[0-9]*/cmdline').map((file) => {
    try {
      return readFileSync(file, 'utf8');
    } catch {
      return '';
    }
  });
}
