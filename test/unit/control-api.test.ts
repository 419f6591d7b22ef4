import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentClient } from '../../agent/src/client/agent-client.js';
import { Connection } from '../../agent/src/client/connection.js';
import { errorTable } from '../../agent/src/core/errors.js';
import { generatedPages } from '../../agent/src/control/pages.js';
import { routes } from '../../agent/src/control/routes.js';
import { createAuthority } from '../../agent/src/pki/authority.js';
import type { Role } from '../../agent/src/service/agent-schemas.js';
import { ApiFixture, roles } from '../support/api-fixture.js';

const spec = { streams: ['src-1'], disks: [{ name: 'data', sizeBytes: '20GiB', stream: 'src-1' }] };

describe('control API', () => {
  let fixture: ApiFixture;
  let alice: AgentClient;
  let rita: AgentClient;
  let peer: AgentClient;
  const raw = async (name: string): Promise<Connection> =>
    new Connection({ url: fixture.url, ...(await fixture.issue(name)), authority: fixture.authority.certificate });

  beforeAll(async () => {
    fixture = await ApiFixture.start();
    [alice, rita, peer] = await Promise.all([fixture.client('alice'), fixture.client('rita'), fixture.client('src-1')]);
  });
  afterAll(() => fixture.stop());

  test('says who it takes the caller for', async () => {
    expect((await alice.agent()).caller).toEqual({ name: 'alice', role: 'operator' });
    expect((await peer.agent()).caller).toEqual({ name: 'src-1', role: 'peer' });
  });

  test('a name without a role is forbidden, a stranger does not get past TLS', async () => {
    await expect((await fixture.client('mallory')).agent()).rejects.toMatchObject({ code: 'forbidden' });
    const stranger = await fixture.client('alice', await createAuthority());
    await expect(stranger.agent()).rejects.toMatchObject({ code: expect.stringMatching(/^peer-/) });
  });

  test('every route refuses every role that it does not name, before it looks at the request', async () => {
    for (const [name, role] of roles) {
      const connection = await raw(name);
      for (const route of routes.filter((each) => !each.roles.includes(role as Role)))
        await expect(connection.call(route.method, route.path.replaceAll(/\{\w+\}/g, 'x'), {})).rejects.toMatchObject({
          code: 'forbidden',
        });
      connection.close();
    }
  });

  test('a reader has nothing but GET, and forecasts, which change nothing', () => {
    for (const route of routes)
      if (route.roles.includes('reader') && route.id !== 'forecast') expect(route.method).toBe('GET');
  });

  test('a peer sees its own groups only', async () => {
    expect((await peer.groups()).map((group) => group.name)).toEqual(['shop']);
    await expect(peer.group('other')).rejects.toMatchObject({ code: 'group-unknown' });
    await expect(peer.checkpoints('other')).rejects.toMatchObject({ code: 'group-unknown' });
    await expect(peer.createCheckpoint('other')).rejects.toMatchObject({ code: 'group-unknown' });
    expect((await peer.createCheckpoint('shop', { label: 'x' })).label).toBe('x');
  });

  test('declares a group, with defaults and sizes for people; refuses a stale revision', async () => {
    const status = await alice.declareGroup('web', { spec });
    expect(status.checkpointIntervalSeconds).toBe(5);
    await expect(alice.declareGroup('web', { spec, expect: { policyRevision: 7 } })).rejects.toMatchObject({
      code: 'stale-revision',
    });
    await alice.removeGroup('web');
    await expect(alice.group('web')).rejects.toMatchObject({ code: 'group-unknown', path: 'group' });
  });

  test.each([
    [{ spec: { ...spec, disks: [{ name: 'Data', sizeBytes: 1024, stream: 'src-1' }] } }, 'spec.disks[0].name'],
    [{ spec: { ...spec, disks: [{ name: 'data', sizeBytes: 1000, stream: 'src-1' }] } }, 'spec.disks[0].sizeBytes'],
    [{ spec: { ...spec, disks: [{ name: 'data', sizeBytes: 1024, stream: 'else' }] } }, 'spec.disks[0].stream'],
    [{ spec: { ...spec, checkpointIntervalSeconds: 0.5 } }, 'spec.checkpointIntervalSeconds'],
    [{ spec: { ...spec, surprise: 1 } }, 'spec.surprise'],
    [
      {
        spec: {
          ...spec,
          history: {
            tiers: [
              { olderThanSeconds: 9, everySeconds: 1 },
              { olderThanSeconds: 3, everySeconds: 1 },
            ],
          },
        },
      },
      'spec.history.tiers',
    ],
    [{}, 'spec'],
  ])('names the wrong property of %j', async (body, path) => {
    await expect(alice.declareGroup('web', body as never)).rejects.toMatchObject({ code: 'request-invalid', path });
  });

  test('lists all wrong properties', async () => {
    const connection = await raw('alice');
    const response = await connection.open('/v1/agent').then((ok) => ok.resume().statusCode);
    expect(response).toBe(200);
    await expect(
      connection.call('GET', '/v1/groups/shop/checkpoints', { query: { limit: 0, kind: 'big' } }),
    ).rejects.toMatchObject({ path: 'kind' });
    await expect(connection.call('GET', '/v1/nothing')).rejects.toMatchObject({ code: 'route-unknown' });
    await expect(connection.call('PUT', '/v1/groups/web', { body: 'x'.repeat(2 * 1024 * 1024) })).rejects.toMatchObject(
      { code: expect.stringMatching(/request-invalid|peer-unreachable/) },
    );
    connection.close();
  });

  test('pages through checkpoints and resolves selectors', async () => {
    const first = await rita.checkpoints('shop', { limit: 4 });
    expect(first.checkpoints).toHaveLength(4);
    const second = await rita.checkpoints('shop', { limit: 4, before: first.next! });
    expect(second.checkpoints[0]!.id < first.checkpoints[3]!.id).toBe(true);
    expect((await rita.resolveCheckpoint('shop', { by: 'label', label: 'before upgrade' })).kind).toBe('tagged');
    await expect(rita.resolveCheckpoint('shop', { by: 'id', checkpoint: 'zzz' })).rejects.toMatchObject({
      code: 'checkpoint-unknown',
    });
  });

  test('an operation id is one operation: repeated it is answered, changed it is refused', async () => {
    const first = await alice.startOperation('op-1', { kind: 'failover', group: 'shop', arguments: {} });
    expect(first).toMatchObject({ drivenBy: 'alice', arguments: { at: { by: 'latest' }, sourceMayBeAlive: false } });
    expect(
      await alice.startOperation('op-1', { kind: 'failover', group: 'shop', arguments: { sourceMayBeAlive: false } }),
    ).toEqual(first);
    await expect(
      alice.startOperation('op-1', { kind: 'failover', group: 'shop', arguments: { sourceMayBeAlive: true } }),
    ).rejects.toMatchObject({ code: 'operation-conflict' });
    await expect(
      alice.startOperation('op-2', { kind: 'explode', group: 'shop', arguments: {} } as never),
    ).rejects.toMatchObject({ code: 'request-invalid', path: 'kind' });
    await expect(alice.operation('op-3')).rejects.toMatchObject({ code: 'operation-unknown' });
  });

  test('waits for an operation and hears of its end', async () => {
    fixture.service.outcome = {};
    await alice.startOperation('op-wait', { kind: 'verify', group: 'shop', arguments: {} });
    const states: string[] = [];
    const waiting = rita.waitOperation('op-wait', (operation) => states.push(operation.state));
    while (states.length === 0) await new Promise((resolve) => setImmediate(resolve));
    await alice.cancelOperation('op-wait');
    expect((await waiting).state).toBe('cancelled');
    expect(states).toEqual(['running', 'cancelled']);
    fixture.service.outcome = { state: 'succeeded', step: 'done' };
  });

  test('events: long poll and stream, continued by Last-Event-ID', async () => {
    const { next, boot } = await rita.events({ limit: 1000 });
    const waiting = rita.events({ after: next, boot, waitSeconds: 20 });
    fixture.service.events$.add({
      severity: 'warning',
      code: 'link-cut',
      group: 'shop',
      message: 'gone',
      attributes: {},
    });
    expect((await waiting).events.map((event) => event.code)).toEqual(['link-cut']);

    const connection = await raw('rita');
    const stream = await connection.open('/v1/events/stream', { headers: { 'last-event-id': `boot-1/${next}` } });
    let text = '';
    stream.setEncoding('utf8').on('data', (part: string) => (text += part));
    stream.on('error', () => {});
    while (!text.includes('link-cut')) await new Promise((resolve) => setTimeout(resolve, 5));
    fixture.service.events$.add({ severity: 'info', code: 'link-up', group: 'shop', message: 'back', attributes: {} });
    while (!text.includes('event: link-up')) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(text).toContain(`id: boot-1/${next + 1}\n`);
    stream.destroy();
    connection.close();
  });

  test('readiness by status, metrics by Prometheus text', async () => {
    const connection = await raw('rita');
    fixture.service.ready = false;
    await expect(connection.open('/readyz')).rejects.toMatchObject({ code: 'protocol-error' });
    fixture.service.ready = true;
    (await connection.open('/readyz')).resume();
    connection.close();
    const text = await rita.metrics();
    expect(text).toContain('tidemark_group_rpo_seconds{group="shop",role="target"} 3.2');
    expect(text).toContain('tidemark_group_state{group="shop",role="target",state="protecting"} 1');
    expect(text).toContain('tidemark_api_failures_total{code="forbidden"}');
  });

  test('what is not expected tells nothing of our insides', async () => {
    fixture.service.failure = new Error('secret path /etc/shadow');
    await expect(rita.groups()).rejects.toMatchObject({ code: 'internal', message: 'The agent failed unexpectedly' });
    fixture.service.failure = undefined;
  });

  test('renewed certificates are used by new connections', async () => {
    const renewed = await fixture.issue('fra-2');
    fixture.server.setTls({ ...renewed, authority: fixture.authority.certificate });
    const { X509Certificate } = await import('node:crypto');
    const { connect } = await import('node:tls');
    const own = await fixture.issue('alice');
    const [host, port] = fixture.server.address.split(':');
    const socket = connect({
      host: host!,
      port: Number(port),
      ...{ cert: own.certificate, key: own.key, ca: fixture.authority.certificate },
      minVersion: 'TLSv1.3',
    });
    await new Promise<void>((resolve) => socket.once('secureConnect', resolve));
    expect(new X509Certificate(socket.getPeerCertificate().raw).subject).toBe('CN=fra-2');
    expect(socket.getProtocol()).toBe('TLSv1.3');
    socket.destroy();
  });
});

test('one caller cannot keep the others out', async () => {
  const fixture = await ApiFixture.start({ inFlightCallerMax: 2, closeMs: 100 });
  const [rita, alice] = await Promise.all([fixture.client('rita'), fixture.client('alice')]);
  const waiting = [rita.events({ waitSeconds: 20 }), rita.events({ waitSeconds: 20 })].map((each) =>
    each.catch(() => {}),
  );
  const deadlineMs = Date.now() + 10_000;
  let refused: unknown;
  while (refused === undefined && Date.now() < deadlineMs)
    await rita.agent().catch((error: unknown) => (refused = error));
  expect(refused).toMatchObject({ code: 'overloaded' });
  expect((await alice.agent()).name).toBe('fra-1');
  await fixture.stop();
  await Promise.all(waiting);
});

test('closing ends waiting requests in time', async () => {
  const fixture = await ApiFixture.start({ closeMs: 200 });
  const client = await fixture.client('rita');
  const waiting = client.events({ waitSeconds: 25 });
  await new Promise((resolve) => setTimeout(resolve, 50));
  const startedMs = performance.now();
  await Promise.all([fixture.stop(), waiting.catch(() => {})]);
  expect(performance.now() - startedMs).toBeLessThan(2000);
});

test.each([...generatedPages(join(process.cwd(), 'docs'))])(
  'docs/%s is up to date (npm run run-ts -- agent/src/control/generate-docs.ts)',
  (name, text) => {
    expect(readFileSync(join(process.cwd(), 'docs', name), 'utf8') === text).toBe(true);
  },
);

test('docs/errors.md lists each code once', () => {
  const page = readFileSync(join(process.cwd(), 'docs', 'errors.md'), 'utf8');
  const listed = [...page.matchAll(/^\| `([a-z-]+)` \|/gm)].map((match) => match[1]);
  expect(listed).toEqual(Object.keys(errorTable));
});
