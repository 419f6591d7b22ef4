/** Copies an NBD export, or an image, into a file with `qemu-img convert`; sparse, never over an existing file. */
import { spawn } from 'node:child_process';
import { access, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { TidemarkError } from '../core/errors.js';

export interface Conversion {
  /** NBD URI, or a file. */
  readonly uri: string;
  /** Default: raw. */
  readonly sourceFormat?: string;
  /** Must not exist (`storage-exists`); appears under this name only when whole. */
  readonly file: string;
  readonly format: 'raw' | 'qcow2';
  /** Share done, 0 to 1. */
  readonly onProgress: (share: number) => void;
  readonly signal: AbortSignal;
}

/** Throws `storage-exists`, `storage-io` (with qemu-img's own words), or the signal's reason. */
export async function convertDisk(conversion: Conversion): Promise<void> {
  const { uri, file, format, signal, sourceFormat = 'raw' } = conversion;
  if (await exists(file)) throw new TidemarkError('storage-exists', `${file} exists`, { path: file });
  signal.throwIfAborted();
  const partial = `${file}.partial`;
  await rm(partial, { force: true });
  try {
    await runQemuImg(['convert', '-p', '-W', '-f', sourceFormat, '-O', format, uri, partial], conversion);
    await sync(partial);
    await rename(partial, file);
    await sync(dirname(file));
  } finally {
    await rm(partial, { force: true });
  }
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** qemu-img leaves its file to the page cache. */
async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function runQemuImg(args: string[], { file, onProgress, signal }: Conversion): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('qemu-img', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const stop = (): void => void child.kill('SIGTERM');
    signal.addEventListener('abort', stop, { once: true });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-2000)));
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const percent = [...text.matchAll(/\((\d+\.\d+)\/100%\)/g)].at(-1)?.[1];
      if (percent !== undefined) onProgress(Number(percent) / 100);
    });
    child.on('error', (cause) =>
      reject(
        new TidemarkError('storage-io', `qemu-img cannot be run (Debian package qemu-utils): ${cause.message}`, {
          cause,
        }),
      ),
    );
    child.on('close', (code) => {
      signal.removeEventListener('abort', stop);
      if (signal.aborted) reject(signal.reason as Error);
      else if (code === 0) resolve();
      else reject(new TidemarkError('storage-io', `qemu-img convert failed: ${said.trim()}`, { path: file }));
    });
  });
}
