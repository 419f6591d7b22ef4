/** The clients that people use, against an export in memory: over a unix socket and inside of TLS. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createAuthority, issueCertificate } from '../../agent/src/pki/authority.js';
import { MemoryBackend, startServer, type TestServer } from '../unit/nbd-support.js';

const run = promisify(execFile);
const asRoot = process.geteuid?.() === 0;
const MiB = 1 << 20;
const size = 64 * MiB;

let host: TestServer;
let tlsUri: string;
const disk = new MemoryBackend(size, 512);
const second = new MemoryBackend(size, 512);

beforeAll(async () => {
  host = await startServer();
  host.server.addExport('disk', disk, { description: 'in memory' });
  host.server.addExport('second', second);
  const authority = await createAuthority();
  const agent = await issueCertificate(authority, 'agent');
  const client = await issueCertificate(authority, 'client');
  const tls = { cert: agent.certificate, key: agent.key, ca: authority.certificate };
  const port = await host.server.listenTcp({ host: '127.0.0.1', port: 0 }, tls);
  const certificates = join(host.directory, '.pki', 'libnbd');
  mkdirSync(certificates, { recursive: true });
  if (asRoot) chmodSync(host.directory, 0o755);
  writeFileSync(join(certificates, 'ca-cert.pem'), authority.certificate);
  writeFileSync(join(certificates, 'client-cert.pem'), client.certificate);
  writeFileSync(join(certificates, 'client-key.pem'), client.key);
  tlsUri = `nbds://localhost:${port}/disk?tls-certificates=${certificates}`;
});
afterAll(async () => host[Symbol.asyncDispose]());

/** The test with the program, or a skipped one that says why. */
function withProgram(program: string, name: string, body: () => Promise<void>): void {
  if (existsSync(`/usr/bin/${program}`)) test(name, body, 60_000);
  else test.skip(`${name} (skipped: ${program} is not installed)`, body);
}

async function tool(program: string, ...args: string[]): Promise<string> {
  const options = { timeout: 50_000, maxBuffer: 16 * MiB, cwd: host.directory };
  const { stdout } = await run(program, args, { ...options, env: { ...process.env, HOME: host.directory } });
  return stdout;
}

/** fio's URI cannot name certificates: they are found in the home directory, which libnbd does not ask as root. */
async function fio(uri: string, ...args: string[]): Promise<void> {
  const all = ['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--verify_state_save=0', ...args];
  if (asRoot && uri.startsWith('nbds:')) await tool('setpriv', '--reuid=65534', '--clear-groups', 'fio', ...all);
  else await tool('fio', ...all);
}

/** 64 KiB of noise in every third 256 KiB; the rest zeros. */
function pattern(): Buffer {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; at += 3 * 256 * 1024) randomFillSync(bytes, at, 65_536);
  return bytes;
}

const transports = [
  ['unix', () => host.uri('disk')],
  ['TLS', () => tlsUri],
] as const;

describe.each(transports)('over %s', (transport, uri) => {
  withProgram('nbdinfo', 'nbdinfo shows the export', async () => {
    const shown = JSON.parse(await tool('nbdinfo', '--json', uri()));
    expect(shown).toMatchObject({ protocol: 'newstyle-fixed', TLS: transport === 'TLS', structured: true });
    expect(shown.exports[0]).toMatchObject({
      'export-name': 'disk',
      'export-size': size,
      contexts: ['base:allocation'],
      is_read_only: false,
      can_multi_conn: true,
      can_fua: true,
      can_zero: true,
      can_trim: true,
      can_df: true,
      block_size_minimum: 512,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MiB,
    });
  });

  withProgram('nbdinfo', 'nbdinfo lists exports and maps allocation', async () => {
    disk.bytes.fill(0).fill(1, MiB, 2 * MiB);
    const listed = JSON.parse(await tool('nbdinfo', '--list', '--json', uri()));
    expect(listed.exports.map((one: { 'export-name': string }) => one['export-name'])).toEqual(['disk', 'second']);
    const map = JSON.parse(await tool('nbdinfo', '--map', '--json', uri()));
    expect(map.map((one: { length: number; type: number }) => [one.length, one.type])).toEqual([
      [MiB, 3],
      [MiB, 0],
      [size - 2 * MiB, 3],
    ]);
  });

  withProgram('nbdcopy', 'nbdcopy there and back', async () => {
    const bytes = pattern();
    const source = join(host.directory, 'source.raw');
    const target = join(host.directory, 'target.raw');
    writeFileSync(source, bytes);
    disk.bytes.fill(9);
    await tool('nbdcopy', '--flush', source, uri());
    expect(disk.bytes.equals(bytes)).toBe(true);
    await tool('nbdcopy', uri(), target);
    expect(readFileSync(target).equals(bytes)).toBe(true);
    rmSync(source);
    rmSync(target);
  });

  withProgram('fio', 'fio writes and verifies', async () => {
    for (const [blockBytes, depth] of [
      ['4k', 32],
      ['64k', 8],
      ['1m', 4],
    ] as const) {
      await fio(
        uri().replace(/\?tls-certificates=.*/, ''),
        ...['--rw=randwrite', `--bs=${blockBytes}`],
        ...[`--iodepth=${depth}`, '--size=32m', '--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--fsync=64'],
      );
    }
  });
});

describe('QEMU', () => {
  withProgram('qemu-io', 'qemu-io patterns, zeroes, discards, flushes and reads back', async () => {
    const steps = [
      ...['write -P 17 0 64k', 'write -P 34 65536 3M', 'writev -P 51 8M 512 4096', 'write -f -P 68 16M 4k'],
      ...['write -z 1M 64k', 'write -z -u 2M 64k', 'discard 3M 64k', 'flush', 'aio_write -P 85 20M 1M', 'aio_flush'],
      ...['read -P 17 0 64k', 'read -P 34 65536 512k', 'read -P 0 1M 64k', 'read -P 0 2M 64k', 'read -P 51 8M 4608'],
      ...['read -P 68 16M 4k', 'read -P 85 20M 1M'],
    ];
    const output = await tool('qemu-io', '-f', 'raw', ...steps.flatMap((step) => ['-c', step]), host.uri('disk'));
    expect(output).not.toMatch(/failed|error/i);
    expect(disk.bytes[0]).toBe(17);
  });

  withProgram('qemu-img', 'qemu-img converts from export to export and compares', async () => {
    pattern().copy(disk.bytes);
    second.bytes.fill(5);
    await tool('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', host.uri('disk'), host.uri('second'));
    expect(second.bytes.equals(disk.bytes)).toBe(true);
    expect(await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', host.uri('disk'), host.uri('second'))).toContain(
      'identical',
    );
    second.bytes[size - 1] = 1;
    await expect(
      tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', host.uri('disk'), host.uri('second')),
    ).rejects.toMatchObject({ code: 1 });
    const map = JSON.parse(await tool('qemu-img', 'map', '--output=json', '-f', 'raw', host.uri('disk')));
    expect(map.length).toBeGreaterThan(100);
  });
});
