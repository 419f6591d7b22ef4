import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { convertDisk } from '../../agent/src/service/convert.js';

let directory: string;
let server: ChildProcess;
let uri: string;
const disk = Buffer.concat([randomBytes(1 << 20), Buffer.alloc(3 << 20), randomBytes(1 << 20)]);

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-convert-'));
  const socket = join(directory, 'nbd.sock');
  writeFileSync(join(directory, 'disk'), disk);
  server = spawn('qemu-nbd', ['-t', '-k', socket, '-x', 'shop/data', '-f', 'raw', join(directory, 'disk')], {
    stdio: 'inherit',
  });
  for (let i = 0; i < 1000 && !existsSync(socket); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  uri = `nbd+unix:///shop/data?socket=${socket}`;
});
afterEach(() => {
  server.kill();
  rmSync(directory, { recursive: true });
});

test.each(['raw', 'qcow2'] as const)('an export becomes a %s file of the same bytes', async (format) => {
  const file = join(directory, `out.${format}`);
  const shares: number[] = [];
  await convertDisk({
    uri,
    file,
    format,
    onProgress: (share) => void shares.push(share),
    signal: new AbortController().signal,
  });
  expect(shares.at(-1)).toBe(1);
  const raw = join(directory, 'again');
  execFileSync('qemu-img', ['convert', '-f', format, '-O', 'raw', file, raw]);
  expect(readFileSync(raw).equals(disk)).toBe(true);
  expect(existsSync(`${file}.partial`)).toBe(false);
  const again = convertDisk({ uri, file, format, onProgress: () => {}, signal: new AbortController().signal });
  await expect(again).rejects.toMatchObject({ code: 'storage-exists' });
});

test('a failure leaves nothing and says what qemu-img said', async () => {
  const file = join(directory, 'out.raw');
  const wrong = convertDisk({
    uri: uri.replace('shop', 'none'),
    file,
    format: 'raw',
    onProgress: () => {},
    signal: new AbortController().signal,
  });
  await expect(wrong).rejects.toMatchObject({ code: 'storage-io', message: expect.stringContaining('none/data') });
  expect(existsSync(file) || existsSync(`${file}.partial`)).toBe(false);
});
