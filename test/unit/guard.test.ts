import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Clock } from '../../agent/src/core/clock.js';
import { AttachPermits } from '../../agent/src/guard/attach-permits.js';
import { Duplicates } from '../../agent/src/guard/duplicates.js';
import { writeLetGo, type LetGo } from '../../agent/src/guard/let-go.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import { waitFor } from '../support/wait.js';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-guard-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe('duplicates', () => {
  let servers: Server[];
  let clients: Socket[];
  beforeEach(() => {
    servers = [];
    clients = [];
  });
  afterEach(() => {
    for (const client of clients) client.destroy();
    for (const server of servers) server.close();
  });

  /** A client, and the handle of the connection's other end, which nobody reads. */
  async function connection(): Promise<{ client: Socket; handle: unknown }> {
    const path = join(directory, `${clients.length}.sock`);
    let accepted: Socket | undefined;
    servers.push(createServer({ pauseOnConnect: true }, (socket) => (accepted = socket)).listen(path));
    const client = connect({ path, allowHalfOpen: true });
    clients.push(client);
    const socket = await waitFor('a connection', () => accepted);
    const shell = socket as unknown as { _handle: unknown };
    const handle = shell._handle;
    shell._handle = null;
    return { client, handle };
  }

  test('a duplicate is not read: the client cannot send more than the socket holds', async () => {
    const { client, handle } = await connection();
    const duplicates = new Duplicates();
    duplicates.hold(1, 'shop', 'shop/vda', handle);
    let taken = false;
    client.write(Buffer.alloc(8 * 1024 * 1024), () => (taken = true));
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(taken).toBe(false);
    expect(client.bytesRead).toBe(0);
    duplicates.close();
  });

  test('shut down: the client sees the end; drained: a client that is blocked in sending goes on', async () => {
    const { client, handle } = await connection();
    const duplicates = new Duplicates();
    duplicates.hold(1, 'shop', 'shop/vda', handle);
    duplicates.hold(2, 'another', 'another/vda', (await connection()).handle);
    expect(duplicates.groups).toEqual(['another', 'shop']);
    let ended = false;
    let taken = false;
    client.resume().on('end', () => (ended = true));
    client.write(Buffer.alloc(8 * 1024 * 1024), () => (taken = true));
    await duplicates.shutDown();
    await waitFor('the end', () => ended);
    expect(taken).toBe(false);
    duplicates.drain();
    await waitFor('all is sent', () => taken);
    for (const each of clients) each.end();
    await waitFor('the duplicates are closed', () => duplicates.count === 0);
  });

  test('a client that has gone is no obstacle', async () => {
    const { client, handle } = await connection();
    const duplicates = new Duplicates();
    duplicates.hold(1, 'shop', 'shop/vda', handle);
    client.destroy();
    await duplicates.shutDown();
    duplicates.drop(1);
    duplicates.drop(7);
    await duplicates.shutDown();
    expect(duplicates.count).toBe(0);
  });
});

describe('attach permits', () => {
  const storage = new NodeStorage();
  let wallMs = 1_700_000_000_000;
  const clock: Clock = { ...nodeClock, wallMs: () => wallMs };
  let events: string[];
  beforeEach(() => {
    events = [];
  });

  async function load(): Promise<AttachPermits> {
    const emit = (code: string, { group }: Readonly<Record<string, unknown>>): void =>
      void events.push(`${code} ${String(group)}`);
    const permits = new AttachPermits({ storage, directory, clock, events: { emit } });
    await permits.load();
    return permits;
  }

  function letGo(groups: string[]): Promise<void> {
    const ages = { ageMs: 1010, sinceReportMs: 1000, reportedMs: 10 };
    const record: LetGo = {
      ...{ version: 1, wallMs, reason: 'silent', ...ages, agentPid: 7, groups, connectionCount: 1 },
    };
    return writeLetGo(storage, directory, record);
  }

  test('survive a restart: back-off, detached with an alert, attached by a person', async () => {
    expect((await load()).mayAttach('shop')).toEqual({ kind: 'now' });
    for (let count = 0; count < 3; count++) {
      await letGo(count === 1 ? ['shop', 'wiki'] : ['shop']);
      if (count === 0) expect((await load()).mayAttach('shop')).toMatchObject({ kind: 'wait', waitMs: 5000 });
      wallMs += 60_000;
    }
    const permits = await load();
    expect(permits.mayAttach('shop')).toMatchObject({ kind: 'detached' });
    expect(permits.mayAttach('wiki')).toEqual({ kind: 'now' });
    expect(permits.alertsOf('wiki')).toEqual([]);
    expect(permits.alertsOf('shop')).toMatchObject([{ code: 'capture-detached', sinceMs: wallMs - 60_000 }]);
    expect(permits.recentCount).toBe(3);
    expect(events).toEqual(['capture-backs-off shop', 'capture-detached shop']);

    await permits.attachAgain('shop');
    expect(permits.mayAttach('shop')).toEqual({ kind: 'now' });
    expect((await load()).mayAttach('shop')).toEqual({ kind: 'now' });
  });

  test('a torn, foreign or damaged record counts for nothing; a damaged resumed.json forgets who attached', async () => {
    for (let count = 0; count < 3; count++, wallMs++) await letGo(['shop']);
    writeFileSync(join(directory, 'let-go-000000000000009-1.json'), '{"version":1,');
    writeFileSync(join(directory, 'let-go-000000000000009-2.json'), '{"version":2}');
    writeFileSync(join(directory, 'let-go-000000000000009-3.json.partial'), 'x');
    await (await load()).attachAgain('shop');
    expect((await load()).recentCount).toBe(3);
    writeFileSync(join(directory, 'resumed.json'), 'x');
    expect((await load()).mayAttach('shop')).toMatchObject({ kind: 'detached' });
  });

  test('at most 100 records are kept, the newest', async () => {
    for (let count = 0; count < 104; count++, wallMs += 1000) await letGo(['shop']);
    await load();
    const names = readdirSync(directory);
    expect(names).toHaveLength(100);
    expect(names.sort().at(-1)).toContain(String(wallMs - 1000));
  });
});
