/** What a source captures, and who knows whom, by YAML programs and the real CLI: a VM of a real QEMU, without a guest. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { AgentHandle } from '../support/agent-handle.js';
import { GuestlessQemu } from '../support/guestless-qemu.js';
import { Laboratory } from '../support/laboratory.js';
import {
  describePulumi,
  pulumiTools,
  toolsTimeoutMs,
  type CommandResult,
  type PulumiProject,
} from '../support/pulumi-project.js';
import { makeSparseFile } from '../support/tools.js';
import { openProject } from './disks-rig.js';

const sizeBytes = 8 * 1024 * 1024;

describePulumi('a source group by configuration', () => {
  let lab: Laboratory;
  let qemu: GuestlessQemu;
  let source: AgentHandle;
  let target: AgentHandle;
  let project: PulumiProject;
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeAll(async () => {
    lab = await Laboratory.open();
    qemu = await GuestlessQemu.start(lab.processes, lab.directory, 'db', [
      { id: 'vda', file: makeSparseFile(lab.path('vda.raw'), sizeBytes) },
    ]);
    target = await lab.startAgent('target');
    source = await lab.startAgent('source', {
      hypervisors: [{ name: 'lab', kind: 'qmp', monitors: [{ vm: 'db', socket: qemu.monitorSocket }] }],
    });
    project = await openProject(lab, 'program', { runtime: 'yaml' });
  }, 120_000);
  afterAll(async () => {
    await qemu?.end();
    await lab?.close();
  });

  function declare(more: Record<string, unknown> = {}, { capture = {}, resource = 'capture' } = {}): void {
    const api = (agent: AgentHandle): Record<string, unknown> => ({ api: `https://${agent.addresses.api}` });
    const peered = (agent: AgentHandle): Record<string, unknown> => ({
      ...{ connection: api(agent), agent: agent.name, stream: agent.addresses.stream },
    });
    const disks = [{ name: 'db-vda', sizeBytes, stream: 'source' }];
    project.program({
      runtime: 'yaml',
      resources: {
        link: { type: 'tidemark:SitePeering', properties: { first: peered(source), second: peered(target) } },
        shop: {
          type: 'tidemark:ProtectionGroup',
          properties: { name: 'shop', target: api(target), policy: { streams: ['source'], disks } },
          options: { dependsOn: ['${link}'] },
        },
        [resource]: {
          type: 'tidemark:SourceGroup',
          properties: {
            ...{ name: 'shop', source: api(source), waitFor: 'synced', waitSeconds: 60 },
            capture: {
              ...{ targets: [{ peer: 'target' }], checkpointIntervalSeconds: 1 },
              ...{ vms: [{ vm: 'db', hypervisor: 'lab' }], ...capture },
            },
            ...more,
          },
          options: { dependsOn: ['${shop}'] },
        },
      },
    });
  }
  async function ok(result: Promise<CommandResult>, ...texts: string[]): Promise<string> {
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
  const update = (): Promise<CommandResult> => project.up('--skip-preview');

  test('a VM that is not there is named; what was made before it stays, and the next update goes on', async () => {
    declare({}, { capture: { vms: [{ vm: 'nobody', hypervisor: 'lab' }] } });
    await fails(project.up(), 'captures VM nobody as shop, sent to target', 'vm-unknown');
    expect((await target.client.groups()).map(({ name }) => name)).toEqual(['shop']);
    declare();
    await ok(update());
    expect(await source.client.group('shop')).toMatchObject({ state: 'protecting', vms: [{ state: 'attached' }] });
    expect((await target.client.group('shop')).newestCheckpoint).not.toBeNull();
    await ok(project.refresh('--expect-no-changes'));
    await ok(project.up('--expect-no-changes'));
  }, 300_000);

  test('a change is an update; one from outside is not written over', async () => {
    declare({}, { capture: { checkpointIntervalSeconds: 3 } });
    expect(await ok(project.preview())).not.toContain('replace');
    await ok(update());
    expect((await source.client.group('shop')).checkpointIntervalSeconds).toBe(3);
    const { spec, owner } = await source.client.sourceGroup('shop');
    await source.client.declareSourceGroup('shop', { spec: { ...spec, fencing: 'stop' }, owner: owner! });
    declare({}, { capture: { checkpointIntervalSeconds: 4 } });
    await fails(update(), 'stale-revision');
    expect((await source.client.sourceGroup('shop')).spec.fencing).toBe('stop');
    // Seen, and decided.
    await ok(project.refresh());
    await ok(update());
    expect((await source.client.sourceGroup('shop')).spec).toMatchObject({
      checkpointIntervalSeconds: 4,
      fencing: 'isolate',
    });
  }, 300_000);

  test('renamed without an alias it is refused: the old one goes first, or is named', async () => {
    declare({}, { resource: 'renamed' });
    await fails(update(), 'exists and belongs to', 'aliases');
    declare();
    await ok(update());
  }, 300_000);

  test('what somebody took away is made again, and a destroy leaves the VM', async () => {
    await source.client.removeSourceGroup('shop');
    await ok(project.refresh());
    await ok(update());
    expect(await source.client.group('shop')).toMatchObject({ vms: [{ state: 'attached' }] });
    await ok(project.destroy());
    expect(await source.client.groups()).toEqual([]);
    expect(await qemu.monitor.execute('query-block-jobs')).toEqual([]);
    await expect(source.client.peer('target')).rejects.toMatchObject({ code: 'peer-unknown' });
  }, 300_000);
});
