/** Source groups and peers that are declared by the API: captured at once, after kills, and until they are removed. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentHandle } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { makeSparseFile, runQemuIo } from '../support/tools.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const sizeBytes = 8 * MiB;

describe('declared by the API', () => {
  let lab: Laboratory;
  let source: AgentHandle;
  let target: AgentHandle;
  let file: string;
  beforeAll(async () => {
    lab = await Laboratory.open();
    file = makeSparseFile(lab.path('data.raw'), sizeBytes);
    const other = makeSparseFile(lab.path('other.raw'), sizeBytes);
    target = await lab.startAgent('target');
    source = await lab.startAgent('source', {
      peers: [{ name: 'elsewhere', address: '127.0.0.1:1' }],
      sourceGroups: [
        { name: 'fixed', targets: [{ peer: 'elsewhere' }], disks: [{ kind: 'in-path', name: 'data', file: other }] },
      ],
    });
  }, 120_000);
  afterAll(() => lab?.close());

  const spec = (more: Record<string, unknown> = {}) => ({
    targets: [{ peer: 'target' }],
    checkpointIntervalSeconds: 1,
    disks: [{ kind: 'in-path' as const, name: 'data', file }],
    ...more,
  });
  const newest = async (): Promise<number> => (await target.client.group('shop')).newestCheckpoint?.sourceTimeMs ?? 0;
  const waitNewer = async (): Promise<void> => {
    const afterMs = Date.now();
    await waitFor('a newer checkpoint', async () => (await newest()) > afterMs, { timeoutMs: 60_000, everyMs: 50 });
  };

  test('a group needs its peer; a peer is known at once, on both sides', async () => {
    await expect(source.client.declareSourceGroup('shop', { spec: spec() })).rejects.toMatchObject({
      code: 'request-invalid',
      path: 'spec.targets[0].peer',
    });
    const known = await source.client.declarePeer('target', { address: target.addresses.stream, owner: 'me' });
    expect(known).toMatchObject({ address: target.addresses.stream, declaredBy: 'api', owner: 'me' });
    await target.client.declarePeer('source', {});
    await expect(source.client.declarePeer('target', { owner: 'you' })).rejects.toMatchObject({ code: 'peer-exists' });
    await expect(source.client.declarePeer('elsewhere', {})).rejects.toMatchObject({ code: 'peer-exists' });
    await expect(source.client.declarePeer('source', {})).rejects.toMatchObject({ code: 'request-invalid' });
    await expect(source.client.peer('nobody')).rejects.toMatchObject({ code: 'peer-unknown' });
  });

  test('it is captured at once, and the same again changes nothing', async () => {
    const disks = [{ name: 'data', sizeBytes, stream: 'source' }];
    await target.client.declareGroup('shop', { spec: { streams: ['source'], disks } });
    const made = await source.client.declareSourceGroup('shop', { spec: spec(), owner: 'me' });
    expect(made).toMatchObject({ declaredBy: 'api', policyRevision: 1, owner: 'me', opened: true, problem: null });
    await waitNewer();
    const again = await source.client.declareSourceGroup('shop', { spec: spec(), owner: 'me' });
    expect(again.policyRevision).toBe(1);
    expect(await source.client.group('shop')).toMatchObject({ role: 'source', owner: 'me', policyRevision: 1 });
  });

  test('another owner, an old revision, a group of the file: refused', async () => {
    const { client } = source;
    await expect(client.declareSourceGroup('shop', { spec: spec(), owner: 'you' })).rejects.toMatchObject({
      code: 'group-exists',
    });
    const stale = { spec: spec({ checkpointIntervalSeconds: 9 }), expect: { policyRevision: 7 } };
    await expect(client.declareSourceGroup('shop', stale)).rejects.toMatchObject({ code: 'stale-revision' });
    await expect(client.removeSourceGroup('shop', { owner: 'you' })).rejects.toMatchObject({ code: 'group-exists' });
    await expect(client.removeSourceGroup('shop', { policyRevision: 7 })).rejects.toMatchObject({
      code: 'stale-revision',
    });
    await expect(client.declareSourceGroup('fixed', { spec: spec() })).rejects.toMatchObject({ code: 'group-exists' });
    await expect(client.removeSourceGroup('fixed')).rejects.toMatchObject({ code: 'group-exists' });
    expect(await client.sourceGroup('fixed')).toMatchObject({ declaredBy: 'file' });
    const taken = { spec: spec({ disks: [{ kind: 'in-path', name: 'x', file, exportName: 'fixed/data' }] }) };
    await expect(client.declareSourceGroup('more', taken)).rejects.toMatchObject({ path: 'spec.disks[0].exportName' });
    await expect(target.client.declareSourceGroup('shop', { spec: spec() })).rejects.toMatchObject({
      code: expect.stringMatching(/group-exists|request-invalid/),
    });
    await expect(client.removePeer('target')).rejects.toMatchObject({ code: 'illegal-state' });
  });

  test('it changes while it is captured; what a reload could not change opens it anew', async () => {
    const { client } = source;
    const faster = await client.declareSourceGroup('shop', { spec: spec({ checkpointIntervalSeconds: 2 }) });
    expect(faster).toMatchObject({ policyRevision: 2, owner: 'me' });
    expect((await client.group('shop')).checkpointIntervalSeconds).toBe(2);
    await waitNewer();
    const disks = [{ kind: 'in-path', name: 'data', file, exportName: 'shop-data' }];
    expect(await client.declareSourceGroup('shop', { spec: spec({ disks }) })).toMatchObject({ policyRevision: 3 });
    await waitNewer();
    const [disk] = (await client.group('shop')).disks;
    expect([disk!.exportName, disk!.state]).toEqual(['shop-data', 'attached']);
    const old = disk!.exportUri!.replace('shop-data', 'shop/data');
    await expect(runQemuIo(lab.processes, old, ['read 0 1M'])).rejects.toThrow();
    const smaller = spec({ disks: [{ ...disks[0], sizeBytes: 4 * MiB }] });
    await client.declareSourceGroup('shop', { spec: spec({ disks: [{ ...disks[0], sizeBytes }] }) });
    await expect(client.declareSourceGroup('shop', { spec: smaller })).rejects.toMatchObject({
      path: 'spec.disks[0].sizeBytes',
    });
  });

  test('a killed agent captures it again, with the peers it had', async () => {
    await source.kill();
    await target.kill();
    await target.start();
    await source.start();
    await waitNewer();
    const uri = (await source.client.group('shop')).disks[0]!.exportUri!;
    await runQemuIo(lab.processes, uri, ['write -P 7 0 1M']);
    const { id } = await source.client.createCheckpoint('shop', { kind: 'tagged', label: 'after' });
    expect((await target.client.resolveCheckpoint('shop', { by: 'label', label: 'after' })).id).toBe(id);
  });

  test('removed, it is captured no more, also after a start; declared again, it goes on', async () => {
    await source.client.removeSourceGroup('shop', { owner: 'me' });
    await source.client.removeSourceGroup('shop');
    await expect(source.client.sourceGroup('shop')).rejects.toMatchObject({ code: 'group-unknown' });
    await source.kill();
    await source.start();
    expect((await source.client.groups()).map(({ name }) => name)).toEqual(['fixed']);
    await source.client.declareSourceGroup('shop', { spec: spec() });
    await waitNewer();
    expect((await target.client.resolveCheckpoint('shop', { by: 'label', label: 'after' })).complete).toBe(true);
    await source.client.removeSourceGroup('shop');
    await source.client.removePeer('target', { owner: 'me' });
    await expect(source.client.peer('target')).rejects.toMatchObject({ code: 'peer-unknown' });
  });

  test('a damaged declaration stops the start and names the file', async () => {
    await source.client.declarePeer('target', { address: target.addresses.stream });
    await source.stop();
    const directory = join(source.dataDirectory, 'peers');
    expect(readdirSync(directory)).toEqual(['target.json']);
    writeFileSync(join(directory, 'target.json'), '{"version":1,"name":"tar');
    await expect(source.start()).rejects.toThrow(/declaration-damaged.*target\.json/s);
  });
});
