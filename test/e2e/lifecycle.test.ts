/** Start, reload, end, lost databases, lost hosts: what happens around the data path, with real agents. */
import { describe, expect, test } from '@jest/globals';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair, type PairOptions } from '../support/pair.js';
import { makeSparseFile, runQemuIo } from '../support/tools.js';
import { waitFor } from '../support/wait.js';
import { tidemark, tidemarkJson } from './cli.js';
import { listCheckpoints } from './verify-checkpoints.js';

const MiB = 1024 * 1024;
const sizeBytes = 8 * MiB;

async function onePair(lab: Laboratory, options: Partial<PairOptions> = {}): Promise<Pair> {
  const file = makeSparseFile(lab.path('data.raw'), sizeBytes);
  const disks = [{ name: 'data', sizeBytes, kind: 'in-path' as const, file }];
  const pair = await startPair(lab, { checkpointIntervalSeconds: 1, disks, ...options });
  await pair.waitProtecting();
  return pair;
}

/** Writes, marks, and returns the checkpoint's id. */
async function writeAndTag(lab: Laboratory, pair: Pair, byte: number, label: string): Promise<string> {
  await runQemuIo(lab.processes, await pair.exportUri('data'), [`write -P ${byte} 0 1M`]);
  return (await pair.source.client.createCheckpoint(pair.group, { kind: 'tagged', label })).id;
}

async function expectByte(
  lab: Laboratory,
  agent: AgentHandle,
  group: string,
  label: string,
  byte: number,
): Promise<void> {
  const id = `look-${label}`;
  const view = await agent.client.openView(group, { id, at: { by: 'label', label } });
  await runQemuIo(lab.processes, view.disks[0]!.uri, [`read -P ${byte} 0 1M`]);
  await agent.client.closeView(group, id);
}

describe('the catalogue is only an index', () => {
  test('deleted, restored old or damaged at any moment: nothing is lost', async () => {
    await using lab = await Laboratory.open();
    const pair = await onePair(lab);
    const { target, group } = pair;
    const file = join(target.dataDirectory, 'catalogue.db');
    await writeAndTag(lab, pair, 1, 'one');
    const labels = async (): Promise<unknown[]> =>
      (await listCheckpoints(target.client, group)).flatMap(({ label }) => label ?? []).toSorted();
    const old = lab.path('old-catalogue');
    cpSync(file, old);
    await writeAndTag(lab, pair, 2, 'two');
    const damages: readonly (readonly [string, () => void])[] = [
      ['deleted', () => rmSync(file)],
      ['restored old', () => cpSync(old, file)],
      ['rubbish', () => writeFileSync(file, Buffer.alloc(20_000, 0x5a))],
      ['empty', () => writeFileSync(file, '')],
    ];
    for (const [what, damage] of damages) {
      for (const running of [true, false]) {
        await waitFor('the database', () => existsSync(file));
        if (!running) await target.kill();
        damage();
        if (!running) await target.start();
        expect([what, running, await labels()]).toEqual([what, running, ['one', 'two']]);
        expect((await target.client.health()).ready).toBe(true);
      }
    }
    const rebuilt = await tidemarkJson<{ state: string }>(lab, target, 'journal', 'rebuild', group);
    expect(rebuilt.state).toBe('succeeded');
    expect(await labels()).toEqual(['one', 'two']);
    // Operations are in the manifest, not in the database.
    await target.kill();
    rmSync(file);
    await target.start();
    const { operations } = await target.client.operations({ group });
    expect(operations.map(({ kind }) => kind)).toEqual(['rebuild']);
    await pair.stop();
  }, 90_000);
});

describe('groups of the target', () => {
  test('declared, removed and kept for its grace, by the command line; a damaged one does not stop the others', async () => {
    await using lab = await Laboratory.open();
    const agent = await lab.startAgent('target', { peers: [{ name: 'source' }] });
    const file = lab.path('group.yaml');
    const spec = { streams: ['source'], disks: [{ name: 'data', sizeBytes: '8MiB', stream: 'source' }] };
    writeFileSync(file, JSON.stringify(spec));
    for (const name of ['one', 'two', 'three']) await tidemarkJson(lab, agent, 'group', 'declare', name, file);
    // A second frame in the manifest: then a bad first one is damage, not the end that a crash left.
    writeFileSync(file, JSON.stringify({ ...spec, checkpointIntervalSeconds: 9 }));
    await tidemarkJson(lab, agent, 'group', 'declare', 'two', file);
    await tidemarkJson(lab, agent, 'group', 'remove', 'one', '--grace-days', '3');
    expect((await agent.client.groups()).map(({ name }) => name)).toEqual(['three', 'two']);
    const groups = join(agent.dataDirectory, 'groups');
    const [retired] = readdirSync(join(groups, '.retired'));
    expect(retired).toMatch(/^\d+-one$/);
    expect(Number.parseInt(retired!, 10) - Date.now()).toBeGreaterThan(2.9 * 86_400_000);
    await agent.kill();
    const manifest = join(groups, 'two', 'manifest-0000000001');
    const bytes = readFileSync(manifest);
    bytes[40]! ^= 0xff;
    writeFileSync(manifest, bytes);
    const started = agent.start({ timeoutMs: 5000 });
    await expect(started).rejects.toThrow('ready');
    expect((await agent.client.groups()).map(({ name }) => name)).toEqual(['three']);
    const { checks } = await agent.client.health();
    expect(checks.find(({ name }) => name === 'target-groups')).toMatchObject({
      ok: false,
      message: expect.stringContaining('two: '),
    });
    await agent.stop();
  }, 60_000);
});

describe('a dead appliance', () => {
  test.each([
    ['same file system', undefined, false],
    ['another file system, encrypted', '/dev/shm', true],
  ])(
    'its journal is adopted: %s',
    async (_name, parent, encrypted) => {
      await using lab = await Laboratory.open();
      const elsewhere = parent === undefined ? lab.path('rescued') : mkdtempSync(join(parent, 'tidemark-'));
      try {
        const key = lab.path('group.key');
        writeFileSync(key, 'ab'.repeat(32), { mode: 0o600 });
        const pair = await onePair(lab, encrypted ? { encryptionKeyFile: key } : {});
        const ids = [await writeAndTag(lab, pair, 1, 'one'), await writeAndTag(lab, pair, 2, 'two')];
        await pair.target.client.startOperation('pin-one', {
          kind: 'pin',
          group: pair.group,
          arguments: { pin: 'keep', at: { by: 'label', label: 'one' }, reason: 'test' },
        });
        await pair.target.client.waitOperation('pin-one');
        await pair.target.kill();
        // The host is gone but for the group's directory.
        cpSync(join(pair.target.dataDirectory, 'groups', pair.group), elsewhere, { recursive: true });
        rmSync(pair.target.dataDirectory, { recursive: true });
        const heir = await lab.startAgent('heir', { peers: [{ name: 'source' }] });
        const args = ['adopt', elsewhere, '--group', pair.group, '--id', 'take-over'];
        if (encrypted) {
          const refused = await tidemark(lab, heir, ...args);
          expect([refused.code, refused.stderr]).toEqual([3, expect.stringContaining('encryption-key')]);
          args.push('--encryption-key-file', key);
          args[args.indexOf('take-over')] = 'take-over-with-key';
        }
        const adopted = await tidemarkJson<{ state: string }>(lab, heir, ...args);
        expect(adopted.state).toBe('succeeded');
        // Again by the same id: the same operation.
        expect((await tidemarkJson<{ state: string }>(lab, heir, ...args)).state).toBe('succeeded');
        const kept = (await listCheckpoints(heir.client, pair.group)).map(({ id }) => id);
        expect(kept).toEqual(expect.arrayContaining(ids));
        await expectByte(lab, heir, pair.group, 'one', 1);
        await heir.kill();
        await heir.start();
        await expectByte(lab, heir, pair.group, 'two', 2);
        const { operations } = await heir.client.operations({ group: pair.group });
        expect(operations.map(({ kind }) => kind).toSorted()).toEqual(['adopt', 'pin']);
      } finally {
        rmSync(elsewhere, { recursive: true, force: true });
        rmSync(`${elsewhere}.adopted`, { recursive: true, force: true });
      }
    },
    60_000,
  );
});

describe('the process', () => {
  test('SIGTERM drains: all that was acknowledged is durable', async () => {
    await using lab = await Laboratory.open();
    const pair = await onePair(lab, { linkProxy: true });
    pair.link!.shape(2_000_000);
    const client = await NbdClient.open(await pair.exportUri('data'), { clock: nodeClock });
    const noise = Buffer.alloc(4 * MiB);
    for (let at = 0; at < noise.length; at += 4) noise.writeUInt32LE(Math.floor(Math.random() * 2 ** 32), at);
    await client.write(noise, 0);
    await client.close();
    const { sequenceGiven, sequenceDurable } = (await pair.sourceStatus()).links[0]!;
    expect(sequenceDurable).toBeLessThan(sequenceGiven);
    await pair.source.stop();
    await waitFor('no connection', async () => (await pair.targetStatus()).links.length === 0);
    const log = pair.source.process.log(50);
    expect(log).toContain('agent-stopped');
    expect(log).not.toContain('drain-timed-out');
    const journal = (await pair.targetStatus()).journal!;
    expect(journal.bytes).toBeGreaterThan(noise.length);
    await pair.target.stop();
  }, 60_000);

  test('SIGHUP changes what can change, and refuses the rest whole', async () => {
    await using lab = await Laboratory.open();
    const pair = await onePair(lab);
    const { source, target } = pair;
    const config = JSON.parse(readFileSync(source.configFile, 'utf8')) as Record<string, unknown>;
    const reload = async (agent: AgentHandle, changed: Record<string, unknown>, event: string): Promise<void> => {
      const before = count(agent, event);
      writeFileSync(agent.configFile, JSON.stringify(changed));
      agent.process.child.kill('SIGHUP');
      await waitFor(event, () => count(agent, event) > before);
    };
    await reload(source, { ...config, throttle: [{ bytesPerSecond: 5_000_000 }] }, 'reloaded');
    expect((await pair.sourceStatus()).links[0]!.throttleBytesPerSecond).toBe(5_000_000);
    await reload(source, { ...config, throttle: [], dataDirectory: '/elsewhere' }, 'reload-refused');
    expect((await pair.sourceStatus()).links[0]!.throttleBytesPerSecond).toBe(5_000_000);
    await reload(source, { ...config, access: [] }, 'reloaded');
    await expect(source.client.groups()).rejects.toMatchObject({ code: 'forbidden' });
    const [group] = config['sourceGroups'] as Record<string, unknown>[];
    await reload(source, { ...config, sourceGroups: [{ ...group, checkpointIntervalSeconds: 4 }] }, 'reloaded');
    expect((await pair.sourceStatus()).checkpointIntervalSeconds).toBe(4);
    const targetConfig = JSON.parse(readFileSync(target.configFile, 'utf8')) as Record<string, unknown>;
    const [kept] = targetConfig['targetGroups'] as Record<string, unknown>[];
    const history = { windowSeconds: 3600, hardLimitBytes: '1GiB' };
    await reload(target, { ...targetConfig, targetGroups: [{ ...kept, history }] }, 'reloaded');
    const status = await pair.targetStatus();
    expect([status.policyRevision, status.journal!.hardLimitBytes]).toEqual([2, 1024 * MiB]);
    await pair.stop();
  }, 60_000);

  test('configuration errors name the path, and two agents never share a directory', async () => {
    await using lab = await Laboratory.open();
    const agent = await lab.startAgent('alone');
    const config = JSON.parse(readFileSync(agent.configFile, 'utf8')) as Record<string, unknown>;
    const run = async (changed: Record<string, unknown>): Promise<string> => {
      const file = lab.path('wrong.yaml');
      writeFileSync(file, JSON.stringify(changed, null, 2));
      const { code, stderr } = await tidemark(lab, agent, 'agent', 'run', '--config', file);
      expect(code).not.toBe(0);
      return stderr;
    };
    expect(await run({ ...config, drainSeconds: -1 })).toMatch(/wrong\.yaml:\d+: drainSeconds/);
    expect(await run({ ...config, nonsense: 1 })).toMatch(/wrong\.yaml:\d+: nonsense: unknown property/);
    expect(await run({ ...config, agent: 'other' })).toContain('agent: the certificate is of alone');
    expect(await run({ ...config, tls: { ...(config['tls'] as object), key: '/nowhere' } })).toContain('tls.key');
    expect(await run({ ...config, listen: { api: '127.0.0.1:0' } })).toContain('Another agent runs on');
    await agent.stop();
  }, 60_000);
});

function count(agent: AgentHandle, event: string): number {
  return readFileSync(agent.process.logFile, 'utf8').split(`"event":"${event}"`).length;
}
