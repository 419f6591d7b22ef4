import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCli } from '../../agent/src/cli/program.js';
import { formatTable, sparkline } from '../../agent/src/cli/format.js';
import { renderProgress, ProgressLine } from '../../agent/src/cli/progress.js';
import { renderTimeline } from '../../agent/src/cli/timeline.js';
import type { Terminal } from '../../agent/src/cli/terminal.js';
import { fakeCheckpoint } from '../support/fake-service.js';
import { ApiFixture } from '../support/api-fixture.js';

interface Run {
  code: number;
  out: string;
  err: string;
}

describe('tidemark', () => {
  let fixture: ApiFixture;
  let directory: string;

  async function tidemark(...args: string[]): Promise<Run> {
    return as('alice', ...args);
  }

  async function as(name: string, ...args: string[]): Promise<Run> {
    const run = { code: -1, out: '', err: '' };
    const terminal: Terminal = {
      out: (text) => void (run.out += text),
      err: (text) => void (run.err += text),
      isTerminal: false,
      colours: false,
      env: { TIDEMARK_CONTEXT: join(directory, `${name}.yaml`) },
      nowMs: () => Date.UTC(2026, 0, 1, 0, 1),
      signal: new AbortController().signal,
    };
    run.code = await runCli(args, { terminal, version: '1.2.3', runAgent: () => Promise.resolve() });
    return run;
  }

  beforeAll(async () => {
    fixture = await ApiFixture.start();
    directory = mkdtempSync(join(tmpdir(), 'tidemark-cli-'));
    writeFileSync(join(directory, 'ca.crt'), fixture.authority.certificate);
    for (const name of ['alice', 'rita']) {
      const pair = await fixture.issue(name);
      writeFileSync(join(directory, `${name}.crt`), pair.certificate);
      writeFileSync(join(directory, `${name}.key`), pair.key);
      writeFileSync(
        join(directory, `${name}.yaml`),
        `api: ${fixture.url}\ncertificate: ${name}.crt\nkey: ${name}.key\nauthority: ca.crt\n`,
      );
    }
  });
  afterAll(async () => {
    await fixture.stop();
    rmSync(directory, { recursive: true });
  });

  test('key export: every key of the host in one file for its owner alone, and what it lacks is said', async () => {
    const data = join(directory, 'data');
    const retired = join(data, 'groups', '.retired', '9999999999999-old');
    mkdirSync(retired, { recursive: true });
    const keyOf = (name: string): string => join(directory, `${name}.key32`);
    for (const [index, name] of ['shop', 'old', 'plain'].entries())
      writeFileSync(keyOf(name), `${String(index + 1).repeat(64)}\n`, { mode: 0o600 });
    writeFileSync(join(data, 'key-files.json'), JSON.stringify({ shop: keyOf('shop') }));
    const spec = {
      streams: ['a'],
      disks: [{ name: 'd', sizeBytes: 4096, stream: 'a' }],
      encryptionKeyFile: keyOf('old'),
    };
    const policy = { spec, policyRevision: 1, owner: null };
    writeFileSync(join(retired, 'retired.json'), JSON.stringify({ policy }));
    const config = join(directory, 'agent.yaml');
    const tls = `tls: { certificate: a, key: b, authority: c }\ndataDirectory: ${data}\n`;
    writeFileSync(config, `site: fra\nagent: fra-1\n${tls}`);
    const file = join(directory, 'escrow.json');
    const first = await tidemark('key', 'export', file, '--config', config);
    expect(first).toMatchObject({ code: 0, out: expect.stringContaining('keys of shop, old') });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const { keys } = JSON.parse(readFileSync(file, 'utf8')) as { keys: { group: string; key: string }[] };
    expect(keys.map(({ group, key }) => [group, key])).toEqual([
      ['shop', '1'.repeat(64)],
      ['old', '2'.repeat(64)],
    ]);
    const again = await tidemark('key', 'export', file, '--config', config);
    expect(again.err).toContain('storage-exists');
    rmSync(keyOf('old'));
    const lacking = await tidemark('key', 'export', `${file}.2`, '--config', config);
    expect(lacking.err).toContain('lacks keys that cannot be read: old');
    expect(lacking.code).not.toBe(0);
    expect(first.out + again.err + lacking.err).not.toContain('1'.repeat(64));
  });

  test('--version and --help', async () => {
    expect(await tidemark('--version')).toEqual({ code: 0, out: '1.2.3\n', err: '' });
    const help = await tidemark('failover', '--help');
    expect(help.code).toBe(0);
    for (const line of help.out.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
  });

  test.each([
    [['frobnicate']],
    [['failover']],
    [['checkpoints', 'shop', '--limit', 'many']],
    [['failover', 'shop', '--at', 'the good one']],
    [['view', 'open', 'shop', '--scratch', 'big']],
  ])('wrong use %j: 2', async (args) => {
    const run = await tidemark(...args);
    expect(run.code).toBe(2);
    expect(run.out).toBe('');
    expect(run.err).not.toBe('');
  });

  test('status, groups, peers fit 80 columns', async () => {
    for (const args of [
      ['status'],
      ['groups'],
      ['peers'],
      ['checkpoints', 'shop'],
      ['checkpoints', 'shop', '--timeline'],
      ['views'],
    ]) {
      const run = await tidemark(...args);
      expect(run).toMatchObject({ code: 0, err: '' });
      for (const line of run.out.split('\n')) expect([...line].length).toBeLessThanOrEqual(80);
    }
    const { out } = await tidemark('status', 'shop');
    expect(out).toContain('shop target  protecting  RPO 3.2 s');
    expect(out).toMatch(/RPO {9}[▁-█]+ last 9 intervals/);
  });

  test('--json everywhere gives what the API answered', async () => {
    for (const args of [
      ['status'],
      ['groups'],
      ['peers'],
      ['checkpoints', 'shop'],
      ['views'],
      ['operations'],
      ['events'],
    ]) {
      const run = await tidemark(...args, '--json');
      expect(run.code).toBe(0);
      expect(JSON.parse(run.out)).toBeInstanceOf(Object);
    }
    expect(JSON.parse((await tidemark('--json', 'checkpoints', 'shop', '--kind', 'tagged')).out)).toMatchObject([
      { label: 'before upgrade' },
    ]);
  });

  test('makes a checkpoint, opens and closes a view', async () => {
    expect((await tidemark('checkpoint', 'create', 'shop', '--label', 'mine')).out).toMatch(/^checkpoint /);
    const open = await tidemark('view', 'open', 'shop', '--id', 'v1', '--at', 'label:mine');
    expect(open.out).toContain('nbd+unix:///v1/data');
    expect((await tidemark('view', 'list')).out).toContain('v1');
    expect(await tidemark('view', 'close', 'v1')).toMatchObject({ code: 0, out: 'closed v1\n' });
    expect(await tidemark('view', 'close', 'v1')).toMatchObject({ code: 3 });
  });

  test('operations: the end decides the exit code', async () => {
    expect(await tidemark('failover', 'shop', '--id', 'op-a')).toMatchObject({ code: 0, err: '' });
    expect(await tidemark('failover', 'shop', '--id', 'op-a', '--at', '-5m')).toMatchObject({ code: 3 });
    const error = { code: 'journal-corrupt', message: 'segment 3 is damaged', hint: 'sync', path: null, retry: false };
    fixture.service.outcome = { state: 'failed', step: 'journal', error };
    const verify = await tidemark('verify', 'shop');
    expect(verify.code).toBe(5);
    expect(verify.err).toMatch(/^journal-corrupt: segment 3 is damaged\n.+\n$/);
    fixture.service.outcome = { state: 'failed', step: 'x', error: { ...error, code: 'illegal-state' } };
    expect((await tidemark('commit', 'shop')).code).toBe(3);
    fixture.service.outcome = { state: 'succeeded', step: 'done' };
    for (const args of [
      ['rollback', 'shop'],
      ['journal', 'rebuild', 'shop'],
      ['adopt', '/srv/old', '--group', 'shop2'],
      ['group', 'resolve', 'shop', '--keep', 'target'],
      ['group', 'pin', 'shop', '--pin', 'p', '--at', 'latest'],
      ['group', 'unpin', 'shop', '--pin', 'p'],
      ['group', 'sync', 'shop'],
      ['export', 'shop', '/srv', '--on-agent', '--format', 'qcow2'],
    ])
      expect(await tidemark(...args)).toMatchObject({ code: 0, err: '' });
    expect((await tidemark('operations', 'wait', 'op-a')).code).toBe(0);
  });

  test('refused by role: 3; unreachable: 4; errors as JSON', async () => {
    const refused = await as('rita', 'failover', 'shop', '--json');
    expect(refused.code).toBe(3);
    expect(JSON.parse(refused.err)).toMatchObject({ code: 'forbidden', hint: expect.any(String) });
    expect(await tidemark('status', '--api', 'https://127.0.0.1:1')).toMatchObject({ code: 4 });
    expect((await tidemark('status', '--context', '/nowhere.yaml')).code).toBe(2);
  });

  test('export names what is missing on this machine', async () => {
    const run = await tidemark('export', 'shop', directory);
    expect(run.code).toBe(2);
    expect(run.err).toContain('--on-agent');
    expect(fixture.service.viewList).toEqual([]);
  });

  test('config check and pki', async () => {
    const pki = join(directory, 'pki');
    expect((await tidemark('pki', 'init', pki)).code).toBe(0);
    expect((await tidemark('pki', 'init', pki)).code).toBe(3);
    const issued = await tidemark(
      'pki',
      'issue',
      'fra-1',
      '--directory',
      pki,
      '--role',
      'peer',
      '--host',
      'fra.example',
    );
    expect(issued.out).toContain('peers:\n  - { name: fra-1 }');
    expect(statSync(join(pki, 'fra-1.key')).mode & 0o777).toBe(0o600);
    const text = execFileSync(
      'openssl',
      ['verify', '-x509_strict', '-CAfile', join(pki, 'ca.crt'), join(pki, 'fra-1.crt')],
      { encoding: 'utf8' },
    );
    expect(text).toContain('OK');
    const file = join(directory, 'agent.yaml');
    writeFileSync(file, 'site: fra\nagent: fra-1\ntls: { certificate: a, key: b, authority: c }\n');
    expect((await tidemark('config', 'check', file)).out).toContain('is valid');
    writeFileSync(file, 'site: FRA\n');
    const bad = await tidemark('config', 'check', file);
    expect(bad).toMatchObject({ code: 2 });
    expect(bad.err).toContain(`${file}:1: site:`);
  });
});

describe('pictures', () => {
  test('tables give way to 80 columns and never pass control characters on', () => {
    const text = formatTable(['A', 'B'], [['x'.repeat(100), 'y\x1b[31m\nz']]);
    for (const line of text.split('\n')) expect([...line].length).toBeLessThanOrEqual(80);
    expect(text).not.toContain('\x1b');
    expect(text.split('\n')).toHaveLength(3);
  });

  test('the timeline shows ends, holes and marks', () => {
    const points = [...Array(50).keys(), ...Array.from({ length: 50 }, (_, i) => 450 + i)].map((i) =>
      fakeCheckpoint(i, i === 460 ? { kind: 'application' } : {}),
    );
    const text = renderTimeline({
      checkpoints: points,
      nowMs: fakeCheckpoint(499).sourceTimeMs,
      replicaMs: points[0]!.sourceTimeMs,
    });
    const lines = text.split('\n');
    expect([...lines[0]!]).toHaveLength(80);
    expect(lines[0]).toMatch(/^[▁-█]{8}·{64}[▁-█]{8}$/);
    expect(lines[1]!.indexOf('◆')).toBe(73);
    expect(lines[2]).toBe('▲');
    expect(renderTimeline({ checkpoints: [], nowMs: 0, replicaMs: null })).toBe('no checkpoints\n');
  });

  test('progress: nothing before 2 s, then a bar with rate and time left', () => {
    let nowMs = 0;
    let err = '';
    const line = new ProgressLine({
      err: (text) => void (err += text),
      out: () => {},
      isTerminal: true,
      colours: false,
      env: {},
      nowMs: () => nowMs,
      signal: new AbortController().signal,
    });
    const progress = {
      doneBytes: 512 * 1024 ** 2,
      totalBytes: 1024 ** 3,
      bytesPerSecond: 1024 ** 2 * 100,
      secondsLeft: 5.1,
    };
    line.update('verify shop', progress);
    expect(err).toBe('');
    nowMs = 2100;
    line.update('verify shop', progress);
    expect(err).toContain('50 %  100 MiB/s  5.1 s left');
    line.end();
    expect(err.endsWith('\r\x1b[K')).toBe(true);
    expect(renderProgress('x'.repeat(200), progress, 0).length).toBeLessThan(80);
    expect(sparkline([0, 1, 2, 4])).toBe('▁▃▅█');
  });
});
