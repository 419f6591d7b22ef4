/** The policy pack by the real engine: what is declared badly fails the preview, with the resource that is meant. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ApiFixture } from '../support/api-fixture.js';
import { repositoryRoot } from '../support/paths.js';
import { describePulumi, PulumiProject, pulumiTools, toolsTimeoutMs } from '../support/pulumi-project.js';
import { Laboratory } from '../support/laboratory.js';

let lab: Laboratory;
let project: PulumiProject;
let fixture: ApiFixture;

/**
 * The pack as it is built, under a runtime of its own: the language host that can be built here runs no packs, so the
 * launcher that Pulumi used before starts the same `run-policy-pack`.
 */
function installPack(directory: string): string {
  execFileSync(process.execPath, [join(repositoryRoot(), 'scripts', 'build-policy.ts')]);
  const pack = join(directory, 'pack');
  cpSync(join(repositoryRoot(), 'dist', 'policy'), pack, { recursive: true });
  symlinkSync(join(repositoryRoot(), 'node_modules'), join(pack, 'node_modules'));
  writeFileSync(join(pack, 'PulumiPolicy.yaml'), 'runtime: laboratory\n');
  const bin = join(directory, 'bin');
  mkdirSync(bin);
  const launcher = join(bin, 'pulumi-analyzer-policy-laboratory');
  const script = `exec ${process.execPath} node_modules/@pulumi/pulumi/cmd/run-policy-pack "$1" "$2"`;
  writeFileSync(launcher, `#!/bin/sh\n${script}\n`);
  chmodSync(launcher, 0o755);
  return bin;
}

describePulumi('the policy pack', () => {
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeAll(async () => {
    lab = await Laboratory.open();
    fixture = await ApiFixture.start();
    const directory = lab.path('program', 'x').slice(0, -2);
    const bin = installPack(lab.directory);
    const pair = await fixture.issue('alice');
    const config = { 'tidemark:certificate': pair.certificate, 'tidemark:key': pair.key };
    project = await PulumiProject.open({
      directory,
      program: { runtime: 'yaml' },
      config: { ...config, 'tidemark:authority': fixture.authority.certificate },
      env: { PATH: `${bin}:${pulumiTools()}:${process.env['PATH']}` },
    });
  }, 120_000);
  afterAll(async () => {
    await fixture?.stop();
    await lab?.close();
  });

  const declare = (more: object, policy: object): void =>
    project.program({
      runtime: 'yaml',
      resources: {
        crm: {
          type: 'tidemark:ProtectionGroup',
          properties: {
            ...{ name: 'crm', target: { api: fixture.url } },
            policy: { streams: ['a'], disks: [{ name: 'db-vda', sizeBytes: '1GiB', stream: 'a' }], ...policy },
            ...more,
          },
        },
      },
    });

  test('a preview of what is declared badly fails with every finding; what is declared well passes', async () => {
    const recovery = { hypervisor: 'local', vms: [{ vm: 'db' }] };
    const packConfig = join(lab.directory, 'config.json');
    writeFileSync(packConfig, JSON.stringify({ 'tier-one-protected': { tierOneVms: ['db', 'erp'] } }));
    const flags = ['--policy-pack', join(lab.directory, 'pack'), '--policy-pack-config', packConfig];
    declare({ labels: { class: 'gold', databases: 'db' } }, { checkpointIntervalSeconds: 60, recovery });
    const bad = await project.preview(...flags);
    for (const text of [
      ...['VM erp is in tierOneVms', 'class gold wants an RPO of 10 s', 'database db has no hook'],
      ...['does not say in which failure domains', 'no drill of it has passed', 'set encryptionKeyFile'],
    ])
      expect(bad.output).toContain(text);
    expect(bad.code).not.toBe(0);

    writeFileSync(packConfig, JSON.stringify({ 'drill-age': 'advisory' }));
    declare(
      {
        labels: { class: 'gold', sourceFailureDomain: 'ams', targetFailureDomain: 'fra' },
      },
      { recovery, encryptionKeyFile: '/etc/tidemark/crm.key' },
    );
    const good = await project.preview(...flags);
    expect(good.output).toContain('no drill of it has passed');
    expect(good.code).toBe(0);
  }, 300_000);
});
