/** Bounds, back-pressure, life cycle and TLS of the server, with our own client on the other side. */
import { describe, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { FileBlockDevice } from '../../agent/src/nbd/file-block-device.js';
import { openNbd } from '../../agent/src/nbd/nbd-block-device.js';
import type { Payload } from '../../agent/src/nbd/payload.js';
import { command, option } from '../../agent/src/nbd/protocol.js';
import { SlabPool } from '../../agent/src/nbd/slab.js';
import { createAuthority, issueCertificate } from '../../agent/src/pki/authority.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { goData, MemoryBackend, RawClient, startServer } from './nbd-support.js';

const clock = nodeClock;
const MiB = 1 << 20;

/** Waits for a condition, at most 5 s. */
async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not within 5 s: ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('data', () => {
  test('mixed sizes from several clients at once land where they belong', async () => {
    await using host = await startServer();
    const disk = new MemoryBackend(96 * MiB);
    host.server.addExport('d', disk);
    const lengths = [1, 511, 4096, 65_536, MiB + 3, 5 * MiB + 1, 33 * MiB];
    await Promise.all(
      [0, 1].map(async (client) => {
        const device = await openNbd(host.uri('d'), { clock });
        let offset = client * 48 * MiB;
        const writes: Promise<void>[] = [];
        const pieces = lengths.map((length, index) => {
          const bytes = Buffer.alloc(length, 1 + index + 16 * client);
          writes.push(device.write(bytes, offset));
          offset += length;
          return { bytes, at: offset - length };
        });
        await Promise.all(writes);
        for (const { bytes, at } of pieces) {
          const back = Buffer.alloc(bytes.length);
          await device.read(back, at);
          expect(back.equals(bytes)).toBe(true);
        }
        await device.zero(client * 48 * MiB, 4096);
        await device.trim(client * 48 * MiB, 4096);
        await device.flush();
        await device.write(Buffer.from('fua'), client * 48 * MiB, true);
        expect((await device.extents(80 * MiB + client * MiB, MiB))[0]).toMatchObject({ lengthBytes: MiB });
        await device.close();
      }),
    );
    await until(() => disk.clients === 0);
    expect(host.slabs.status().heldBytes).toBe(0);
    const [status] = host.server.exports();
    expect(status).toMatchObject({ connections: 0, errors: 0, oldestUnacknowledgedMs: 0 });
  });

  test('errors of the server reject the call and leave the client usable', async () => {
    await using host = await startServer();
    host.server.addExport('ro', new MemoryBackend(MiB, 1, true));
    const client = await NbdClient.open(host.uri('ro'), { clock });
    await expect(client.write(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'EPERM' });
    await expect(client.read(Buffer.alloc(2), MiB - 1)).rejects.toMatchObject({ code: 'EINVAL' });
    await client.read(Buffer.alloc(1), 0);
    await client.close();
    await expect(client.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ESHUTDOWN' });
    await expect(NbdClient.open(host.uri('none'), { clock })).rejects.toMatchObject({ code: 'disk-unknown' });
    await expect(openNbd('nbd+unix:///x?socket=/none', { clock })).rejects.toMatchObject({ code: 'peer-unreachable' });
  });

  test('a request without a reply ends the client at its deadline', async () => {
    await using host = await startServer();
    const disk = new MemoryBackend(MiB);
    let release: () => void = () => undefined;
    disk.hold = new Promise((resolve) => (release = resolve));
    host.server.addExport('d', disk);
    const client = await NbdClient.open(host.uri('d'), { clock, requestMs: 100 });
    await expect(client.flush()).rejects.toMatchObject({ code: 'ESHUTDOWN' });
    expect(await client.closed).toContain('no reply');
    release();
  });
});

describe('bounds', () => {
  test('a full slab pool stops reading, never fails, and goes on when memory is free', async () => {
    const kept: Payload[] = [];
    let pressure = 0;
    const slabs = new SlabPool({ limitBytes: 36 * MiB, onPressure: () => void pressure++ });
    await using host = await startServer({}, slabs);
    const disk = new MemoryBackend(MiB);
    disk.write = (_offset: number, payload: Payload): undefined => {
      payload.retain();
      kept.push(payload);
    };
    host.server.addExport('d', disk);
    const client = await NbdClient.open(host.uri('d'), { clock });
    const bytes = Buffer.alloc(MiB);
    let done = 0;
    const writes = Array.from({ length: 60 }, () => client.write(bytes, 0).then(() => done++));
    await until(() => slabs.status().waitingCount > 0);
    expect(done).toBeLessThanOrEqual(36);
    expect(pressure).toBeGreaterThan(0);
    expect(slabs.status().allocatedBytes).toBeLessThanOrEqual(36 * MiB);
    const timer = setInterval(() => kept.splice(0, 3).forEach((payload) => payload.release()), 1);
    await Promise.all(writes);
    clearInterval(timer);
    await client.close();
    kept.splice(0).forEach((payload) => payload.release());
    expect(slabs.status().heldBytes).toBe(0);
  });

  test('requests in flight and replies that are not read are bounded', async () => {
    await using host = await startServer({ inFlightMax: 8, queuedReplyBytesMax: 2 * MiB });
    const disk = new MemoryBackend(MiB);
    host.server.addExport('d', disk);
    let release: () => void = () => undefined;
    disk.hold = new Promise((resolve) => (release = resolve));
    using held = await RawClient.open(host.path);
    held.ask(option.go, goData('d'));
    for (let index = 0; index < 100; index++) held.request(command.flush, 0, 0);
    await until(() => disk.calls >= 8);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(disk.calls).toBe(8);
    expect(host.server.exportStatus('d')?.oldestUnacknowledgedMs).toBeGreaterThan(0);
    release();
    await until(() => disk.calls === 100);
    disk.hold = undefined;

    using deaf = await RawClient.open(host.path);
    deaf.ask(option.go, goData('d'));
    await deaf.answer();
    deaf.socket.pause();
    const before = disk.calls;
    for (let index = 0; index < 200; index++) deaf.request(command.read, 0, MiB);
    await until(() => disk.calls > before);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(disk.calls - before).toBeLessThan(10);
    deaf.socket.removeAllListeners('data');
    deaf.socket.resume();
    await until(() => disk.calls - before === 200);
  });
});

describe('life cycle', () => {
  test('a removed export answers what is in flight and drops its clients; others stay', async () => {
    await using host = await startServer();
    const disk = new MemoryBackend(MiB);
    host.server.addExport('d', disk);
    host.server.addExport('other', new MemoryBackend(MiB));
    expect(() => host.server.addExport('d', disk)).toThrow();
    const client = await NbdClient.open(host.uri('d'), { clock });
    const other = await NbdClient.open(host.uri('other'), { clock });
    let release: () => void = () => undefined;
    disk.hold = new Promise((resolve) => (release = resolve));
    const write = client.write(Buffer.from('last'), 0);
    await until(() => disk.calls === 1);
    const removed = host.server.removeExport('d');
    release();
    await write;
    await removed;
    expect(disk.clients).toBe(0);
    expect(disk.bytes.toString('utf8', 0, 4)).toBe('last');
    await client.closed;
    await other.flush();
    await other.close();
    await host.server.removeExport('nothing');
  });

  test('a stuck client is cut after the grace, a stuck backend is waited for', async () => {
    await using host = await startServer();
    const disk = new MemoryBackend(MiB);
    host.server.addExport('d', disk);
    const client = await NbdClient.open(host.uri('d'), { clock });
    let release: () => void = () => undefined;
    disk.hold = new Promise((resolve) => (release = resolve));
    const flush = client.flush();
    flush.catch(() => undefined);
    await until(() => disk.calls === 1);
    let gone = false;
    const removed = host.server.removeExport('d', { graceMs: 20 }).then(() => (gone = true));
    await expect(flush).rejects.toMatchObject({ code: 'ESHUTDOWN' });
    expect(gone).toBe(false);
    release();
    await removed;
  });

  test('the socket has mode 0600, a stale one is replaced, a living one and a plain file are not', async () => {
    await using host = await startServer();
    expect(statSync(host.path).mode & 0o777).toBe(0o600);
    await using second = await startServer();
    await expect(second.server.listenUnix(host.path)).rejects.toMatchObject({ code: 'storage-exists' });
    const file = join(host.directory, 'file');
    writeFileSync(file, '');
    await expect(second.server.listenUnix(file)).rejects.toMatchObject({ code: 'storage-exists' });
    await expect(second.server.listenUnix(`/tmp/${'x'.repeat(120)}`)).rejects.toMatchObject({ code: 'config-invalid' });
    const stale = join(host.directory, 'stale');
    const dead = createServer().listen({ path: join(host.directory, 'dead') });
    await new Promise((resolve) => dead.once('listening', resolve));
    const { linkSync } = await import('node:fs');
    linkSync(join(host.directory, 'dead'), stale);
    await new Promise((resolve) => dead.close(resolve));
    await second.server.listenUnix(stale);
    expect(statSync(stale).isSocket()).toBe(true);
  });

  test('TCP: nothing but TLS, and with an authority no client without its certificate', async () => {
    await using host = await startServer();
    host.server.addExport('d', new MemoryBackend(8 * MiB));
    const authority = await createAuthority();
    const other = await createAuthority();
    const agent = await issueCertificate(authority, 'agent');
    const mine = await issueCertificate(authority, 'client');
    const foreign = await issueCertificate(other, 'foreign');
    const tls = { cert: agent.certificate, key: agent.key, ca: authority.certificate };
    const port = await host.server.listenTcp({ host: '127.0.0.1', port: 0 }, tls);
    const ca = authority.certificate;
    const uri = `nbds://127.0.0.1:${port}/d`;
    const client = await NbdClient.open(uri, { clock, tls: { ca, cert: mine.certificate, key: mine.key } });
    const bytes = Buffer.alloc(3 * MiB + 1, 5);
    await client.write(bytes, 7);
    const back = Buffer.alloc(bytes.length);
    await client.read(back, 7);
    expect(back.equals(bytes)).toBe(true);
    await client.close();
    for (const bad of [{ ca }, { ca, cert: foreign.certificate, key: foreign.key }, { ca: other.certificate }]) {
      await expect(NbdClient.open(uri, { clock, tls: bad })).rejects.toMatchObject({ code: 'peer-unreachable' });
    }
    await expect(NbdClient.open(`nbd://127.0.0.1:${port}/d`, { clock })).rejects.toMatchObject({
      code: 'peer-refused',
    });
    await expect(NbdClient.open(uri, { clock })).rejects.toMatchObject({ code: 'config-invalid' });
  });
});

test('a raw file as a block device', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-file-'));
  try {
    const path = join(directory, 'disk.raw');
    writeFileSync(path, Buffer.alloc(2 * MiB, 1));
    const device = await FileBlockDevice.open(path);
    expect(device.sizeBytes).toBe(2 * MiB);
    await device.zero(0, MiB + 1);
    await device.write(Buffer.from('abc'), 5, true);
    const back = Buffer.alloc(10);
    await device.read(back, 0);
    expect(back).toEqual(Buffer.from('\0\0\0\0\0abc\0\0'));
    await device.read(back, MiB);
    expect([back[0], back[1]]).toEqual([0, 1]);
    await expect(device.write(back, 2 * MiB - 1)).rejects.toMatchObject({ code: 'ENOSPC' });
    await expect(device.read(back, 2 * MiB - 1)).rejects.toMatchObject({ code: 'EIO' });
    await device.trim(0, 10);
    await device.flush();
    await device.close();
    const readOnly = await FileBlockDevice.open(path, { readOnly: true });
    await expect(readOnly.write(back, 0)).rejects.toMatchObject({ code: 'EPERM' });
    await readOnly.close();
  } finally {
    rmSync(directory, { recursive: true });
  }
});
