import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile, execFileSync } from 'node:child_process';
import { createServer, type AddressInfo } from 'node:net';
import { createServer as createHttps, type Server } from 'node:https';
import { rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { AgentClient } from '../../components/index.js';
import { issueCertificate } from '../../agent/src/pki/authority.js';
import { ApiFixture } from '../support/api-fixture.js';

/** Another Node on this machine that Pulumi may use, and its version. */
function otherNode(): { path: string; version: string } | undefined {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    try {
      const path = join(directory, 'node');
      const version = execFileSync(path, ['--version'], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim();
      const major = Number(version.slice(1).split('.')[0]);
      if (major >= 20 && version !== process.version) return { path, version };
    } catch {
      continue;
    }
  }
  return undefined;
}

describe('agent client', () => {
  let fixture: ApiFixture;
  beforeAll(async () => {
    fixture = await ApiFixture.start();
  });
  afterAll(() => fixture.stop());

  test('every method comes back from the agent with what it promises', async () => {
    const client = await fixture.client('alice');
    expect((await client.health()).ready).toBe(true);
    expect((await client.peers())[0]!.name).toBe('src-1');
    expect((await client.groups()).map((group) => group.name)).toEqual(['shop', 'other']);
    const view = await client.openView('shop', { id: 'v', at: { by: 'latest' } });
    expect(await client.views('shop')).toEqual([view]);
    await client.closeView('shop', 'v');
    expect(await client.views()).toEqual([]);
    await client.startOperation('op-1', {
      kind: 'pin',
      group: 'shop',
      arguments: { pin: 'p', at: { by: 'latest' }, reason: 'r' },
    });
    expect((await client.operations({ group: 'shop' })).operations.map((operation) => operation.id)).toEqual(['op-1']);
    expect((await client.waitOperation('op-1')).state).toBe('succeeded');
  });

  test('a name that needs escaping stays one segment of the path', async () => {
    const client = await fixture.client('alice');
    await expect(client.group('../agent')).rejects.toMatchObject({ code: 'request-invalid', path: 'group' });
  });

  test('an agent of another name is not believed', async () => {
    const pair = await fixture.issue('alice');
    const client = new AgentClient({
      url: fixture.url,
      ...pair,
      authority: fixture.authority.certificate,
      serverName: 'ams-1',
    });
    await expect(client.agent()).rejects.toMatchObject({ code: 'peer-refused' });
    client.close();
  });

  test('a peer that never answers is given up; an aborted wait ends with its own reason', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1');
    await new Promise((resolve) => silent.once('listening', resolve));
    const pair = await fixture.issue('alice');
    const url = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const client = new AgentClient({ url, ...pair, authority: fixture.authority.certificate, timeoutMs: 100 });
    await expect(client.agent()).rejects.toMatchObject({ code: 'peer-unreachable' });
    silent.close();
    const stop = new AbortController();
    const waiting = (await fixture.client('alice')).events({ after: 1000, waitSeconds: 20 }, stop.signal);
    stop.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
  });

  test('an answer of another version, or of something else, is not passed on', async () => {
    const pair = await issueCertificate(fixture.authority, 'fra-1');
    let answer = '{}';
    const server: Server = createHttps({ cert: pair.certificate, key: pair.key }, (_request, response) =>
      response.end(answer),
    ).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const client = new AgentClient({
      url,
      ...(await fixture.issue('alice')),
      authority: fixture.authority.certificate,
    });
    await expect(client.agent()).rejects.toMatchObject({ code: 'protocol-version' });
    await expect(client.groups()).rejects.toMatchObject({ code: 'protocol-error' });
    answer = '<html>';
    await expect(client.agent()).rejects.toMatchObject({ code: 'protocol-error' });
    client.close();
    server.close();
  });

  const other = otherNode();
  test(`works on ${other?.version ?? 'an older Node (skipped: only one Node here)'}`, async () => {
    if (other === undefined) return;
    const bundle = join(process.cwd(), 'dist', 'test', `client-${process.pid}.mjs`);
    const input = join(process.cwd(), 'dist', 'test', `client-${process.pid}.json`);
    const program = `import { readFileSync } from 'node:fs';
      import { AgentClient } from './components/index.js';
      const client = new AgentClient(JSON.parse(readFileSync(process.argv[2], 'utf8')));
      console.log(JSON.stringify((await client.groups()).map((group) => group.name)));
      await client.waitOperation('none').catch((error) => console.log(error.code));
      client.close();`;
    await build({
      stdin: { contents: program, resolveDir: process.cwd(), loader: 'ts' },
      bundle: true,
      platform: 'node',
      format: 'esm',
      target: 'node20',
      packages: 'external',
      outfile: bundle,
      logLevel: 'error',
    });
    writeFileSync(
      input,
      JSON.stringify({ url: fixture.url, ...(await fixture.issue('rita')), authority: fixture.authority.certificate }),
    );
    try {
      const { stdout } = await promisify(execFile)(other.path, [bundle, input]);
      expect(stdout).toBe('["shop","other"]\noperation-unknown\n');
    } finally {
      rmSync(bundle);
      rmSync(input);
    }
  });
});
