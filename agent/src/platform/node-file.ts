/** A file of the host. The callback API on a bare descriptor costs less than FileHandle for small I/O. */
import * as fs from 'node:fs';
import type { StorageFile } from '../core/storage.js';
import { storageError } from './node-errors.js';

type Callback<T> = (error: NodeJS.ErrnoException | null, value: T) => void;

export class NodeFile implements StorageFile {
  readonly #fd: number;
  readonly #path: string;
  /** I/O under way: the descriptor is closed only at zero, or a reused number would receive it. */
  #busyCount = 0;
  #closing: Promise<void> | undefined;
  #idle: (() => void) | undefined;

  constructor(fd: number, path: string) {
    this.#fd = fd;
    this.#path = path;
  }

  async read(target: Uint8Array, positionBytes: number): Promise<number> {
    let done = 0;
    while (done < target.length) {
      const count = await this.#io<number>('read', (callback) =>
        fs.read(this.#fd, target, done, target.length - done, positionBytes + done, callback),
      );
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  async write(source: Uint8Array, positionBytes: number): Promise<void> {
    let done = 0;
    while (done < source.length) {
      done += await this.#io<number>('write', (callback) =>
        fs.write(this.#fd, source, done, source.length - done, positionBytes + done, callback),
      );
    }
  }

  async writeAll(sources: readonly Uint8Array[], positionBytes: number): Promise<void> {
    let rest = sources.filter((source) => source.length > 0);
    let position = positionBytes;
    while (rest.length > 0) {
      const pieces = rest;
      const count = await this.#io<number>('write', (callback) => fs.writev(this.#fd, pieces, position, callback));
      position += count;
      rest = skipBytes(pieces, count);
    }
  }

  datasync(): Promise<void> {
    return this.#io('sync', (callback: Callback<void>) => fs.fdatasync(this.#fd, callback as fs.NoParamCallback));
  }

  truncate(lengthBytes: number): Promise<void> {
    return this.#io('truncate', (callback: Callback<void>) =>
      fs.ftruncate(this.#fd, lengthBytes, callback as fs.NoParamCallback),
    );
  }

  async sizeBytes(): Promise<number> {
    return (await this.#io<fs.Stats>('stat', (callback) => fs.fstat(this.#fd, callback))).size;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#busyCount > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
    await new Promise<void>((resolve, reject) =>
      fs.close(this.#fd, (error) =>
        error === null || error === undefined ? resolve() : reject(this.#error('close', error)),
      ),
    );
  }

  #io<T>(action: string, start: (callback: Callback<T>) => void): Promise<T> {
    if (this.#closing !== undefined) return Promise.reject(this.#error(action, new Error('the file is closed')));
    this.#busyCount += 1;
    return new Promise((resolve, reject) =>
      start((error, value) => {
        this.#busyCount -= 1;
        if (this.#busyCount === 0) this.#idle?.();
        if (error !== null && error !== undefined) reject(this.#error(action, error));
        else resolve(value);
      }),
    );
  }

  #error(action: string, cause: unknown): Error {
    return storageError(action, this.#path, cause);
  }
}

function skipBytes(pieces: readonly Uint8Array[], count: number): Uint8Array[] {
  let left = count;
  let index = 0;
  while (index < pieces.length && left >= pieces[index]!.length) left -= pieces[index++]!.length;
  const rest = pieces.slice(index);
  if (left > 0) rest[0] = rest[0]!.subarray(left);
  return rest;
}
