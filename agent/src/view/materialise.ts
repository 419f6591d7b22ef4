/** Copies and hashes whole disks: of a view (with its scratch) or of a checkpoint. */
import { createHash } from 'node:crypto';
import type { Storage, StorageFile } from '../core/storage.js';
import { chunkBytes, chunkDigest, isZero } from '../replica/digest.js';
import { digestBytes } from '../stream/messages.js';
import { blockBytes } from './block-map.js';
import type { DiskReader } from './cut-disk.js';
import type { View } from './view.js';

const copyBytes = 4 * 1024 * 1024;
const extentCountMax = 1024;

export type ProgressHandler = (doneBytes: number, totalBytes: number) => void;

export interface CopyOptions {
  readonly source: DiskReader;
  readonly storage: Storage;
  /** Must not exist. */
  readonly path: string;
  readonly onProgress?: ProgressHandler | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Writes the disk as a sparse raw file; fsynced, name included, on return. After a throw or an abort the file is removed. */
export async function copyDisk(options: CopyOptions): Promise<void> {
  const { source, storage, path } = options;
  const file = await storage.open(path, 'create');
  try {
    await file.truncate(source.sizeBytes);
    await eachRun(source, options, (bytes, at) =>
      bytes === undefined ? Promise.resolve() : writeSparse(file, bytes, at),
    );
    await file.datasync();
  } catch (error) {
    await file.close();
    await storage.remove(path).catch(() => undefined);
    throw error;
  }
  await file.close();
  await storage.syncDirectory(path.slice(0, Math.max(0, path.lastIndexOf('/'))) || '.');
}

/** {@link copyDisk} of a view's disk, as the VM sees it; clients must be gone or the copy is of no one moment. */
export async function materialiseDisk(
  options: Omit<CopyOptions, 'source'> & { readonly view: View; readonly disk: number },
): Promise<void> {
  await copyDisk({ ...options, source: options.view.disk(options.disk) });
}

/** SHA-256 (hexadecimal) over all bytes of the disk, zeros included. */
export async function hashDisk(
  source: DiskReader,
  options: { readonly onProgress?: ProgressHandler | undefined; readonly signal?: AbortSignal | undefined } = {},
): Promise<string> {
  const sum = createHash('sha256');
  const zeros = new Uint8Array(Math.min(copyBytes, source.sizeBytes));
  await eachRun(source, options, (bytes, _at, lengthBytes) => {
    sum.update(bytes ?? zeros.subarray(0, lengthBytes));
    return Promise.resolve();
  });
  return sum.digest('hex');
}

/** SHA-256 of each disk of the checkpoint below a view, by disk index. */
export async function hashView(view: View, options: Parameters<typeof hashDisk>[1] = {}): Promise<Map<number, string>> {
  const sums = new Map<number, string>();
  for (const [index, disk] of view.checkpointDisks) sums.set(index, await hashDisk(disk, options));
  return sums;
}

/** Digests of chunks as the reader shows them (replica and journal), for a delta sync; zero runs cost no I/O. */
export async function digestsAt(source: DiskReader, firstChunk: number, count: number): Promise<Uint8Array> {
  const result = new Uint8Array(count * digestBytes);
  const target = Buffer.allocUnsafe(chunkBytes);
  for (let i = 0; i < count; i++) {
    const offset = (firstChunk + i) * chunkBytes;
    const bytes = target.subarray(0, Math.min(chunkBytes, source.sizeBytes - offset));
    const [run] = await source.extents(offset, bytes.length, 1);
    if (run?.zero === true && run.lengthBytes >= bytes.length) continue;
    await source.read(bytes, offset);
    result.set(chunkDigest(bytes), i * digestBytes);
  }
  return result;
}

/** Walks a disk in order, at most 4 MiB a step; `bytes` undefined: the run reads as zeros. */
async function eachRun(
  source: DiskReader,
  options: { readonly onProgress?: ProgressHandler | undefined; readonly signal?: AbortSignal | undefined },
  visit: (bytes: Uint8Array | undefined, offsetBytes: number, lengthBytes: number) => Promise<void>,
): Promise<void> {
  const { sizeBytes } = source;
  const buffer = Buffer.allocUnsafe(Math.min(copyBytes, sizeBytes));
  for (let at = 0; at < sizeBytes;) {
    for (const extent of await source.extents(at, sizeBytes - at, extentCountMax)) {
      const end = at + extent.lengthBytes;
      while (at < end) {
        options.signal?.throwIfAborted();
        const lengthBytes = Math.min(copyBytes, end - at);
        const bytes = extent.zero ? undefined : buffer.subarray(0, lengthBytes);
        if (bytes !== undefined) await source.read(bytes, at);
        await visit(bytes, at, lengthBytes);
        at += lengthBytes;
        options.onProgress?.(at, sizeBytes);
      }
    }
  }
}

/** Writes what is not zero, by 4 KiB blocks, joined. */
async function writeSparse(file: StorageFile, bytes: Uint8Array, offsetBytes: number): Promise<void> {
  let start = -1;
  for (let at = 0; at <= bytes.length; at += blockBytes) {
    const end = Math.min(at + blockBytes, bytes.length);
    const skip = at >= bytes.length || isZero(bytes.subarray(at, end));
    if (!skip && start < 0) start = at;
    const last = at + blockBytes >= bytes.length;
    if (start >= 0 && (skip || last)) {
      await file.write(bytes.subarray(start, skip ? at : end), offsetBytes + start);
      start = -1;
    }
  }
}
