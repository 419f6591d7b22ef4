/**
 * A file of the host. The callback API on a bare descriptor costs less than FileHandle for small I/O.
 *
 * Of a bulk file the whole pages within a large write go past the page cache (O_DIRECT): memory for pages that nobody reads
 * soon costs more processor time than everything else a write does. The ends of the write go through the cache; no page is
 * written in both ways by one write, and the kernel keeps the two apart for pages that later writes share.
 */
import * as fs from 'node:fs';
import type { StorageFile } from '../core/storage.js';
import { storageError } from './node-errors.js';
import { directAlignment, giveLane, stagingBytes, takeLane } from './staging.js';

/** Below it the kernel does better by gathering writes in its cache and sending many at once. */
const directBytesMin = 256 * 1024;

type Callback<T> = (error: NodeJS.ErrnoException | null, value: T) => void;

export class NodeFile implements StorageFile {
  readonly #fd: number;
  readonly #path: string;
  /** I/O under way: the descriptor is closed only at zero, or a reused number would receive it. */
  #busyCount = 0;
  #closing: Promise<void> | undefined;
  #idle: (() => void) | undefined;
  readonly #directFd: number | undefined;
  #direct: boolean;

  /** `directFd`: the same file, opened with O_DIRECT. Both are closed by `close`. */
  constructor(fd: number, path: string, directFd?: number) {
    this.#fd = fd;
    this.#path = path;
    this.#directFd = directFd;
    this.#direct = directFd !== undefined;
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

  write(source: Uint8Array, positionBytes: number): Promise<void> {
    return this.writeAll([source], positionBytes);
  }

  async writeAll(sources: readonly Uint8Array[], positionBytes: number): Promise<void> {
    const pieces = sources.filter((source) => source.length > 0);
    const endBytes = pieces.reduce((sum, piece) => sum + piece.length, positionBytes);
    const from = Math.ceil(positionBytes / directAlignment) * directAlignment;
    const to = Math.floor(endBytes / directAlignment) * directAlignment;
    if (!this.#direct || to - from < directBytesMin) return this.#writeCached(pieces, positionBytes);
    await this.#writeCached(cut(pieces, 0, from - positionBytes), positionBytes);
    const done = await this.#writeDirect(cut(pieces, from - positionBytes, to - positionBytes), from, to);
    await this.#writeCached(cut(pieces, done - positionBytes, endBytes - positionBytes), done);
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
    for (const fd of [this.#directFd, this.#fd]) {
      if (fd === undefined) continue;
      await new Promise<void>((resolve, reject) =>
        fs.close(fd, (error) =>
          error === null || error === undefined ? resolve() : reject(this.#error('close', error)),
        ),
      );
    }
  }

  async #writeCached(pieces: readonly Uint8Array[], positionBytes: number): Promise<void> {
    let rest = pieces;
    let position = positionBytes;
    while (rest.length > 0) {
      const now = rest;
      const count = await this.#io<number>('write', (callback) => fs.writev(this.#fd, now, position, callback));
      position += count;
      rest = cut(now, count);
    }
  }

  /** Returns the end of what was written: less than `to` when the kernel took less, or none in this way. */
  async #writeDirect(pieces: readonly Uint8Array[], from: number, to: number): Promise<number> {
    const lane = await takeLane();
    const fill = (turn: 0 | 1, positionBytes: number): Uint8Array =>
      copyPieces(
        pieces,
        positionBytes - from,
        lane.buffers[turn].subarray(0, Math.min(stagingBytes, to - positionBytes)),
      );
    try {
      let position = from;
      let buffer = fill(0, from);
      for (let turn: 0 | 1 = 1; position < to; turn = turn === 0 ? 1 : 0) {
        const writing = this.#writeOnce(buffer, position);
        const { length } = buffer;
        buffer = fill(turn, position + length);
        const count = await writing;
        position += count;
        if (count < length) break;
      }
      return position;
    } finally {
      giveLane(lane);
    }
  }

  #writeOnce(buffer: Uint8Array, positionBytes: number): Promise<number> {
    return this.#io<number>('write', (callback) =>
      fs.write(this.#directFd as number, buffer, 0, buffer.length, positionBytes, (error, count) => {
        if (error?.code !== 'EINVAL') return callback(error, count);
        // A file system that opens files so, and does not write them so.
        this.#direct = false;
        callback(null, 0);
      }),
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

/** The bytes from `from` to `to` of the joined pieces. */
function cut(pieces: readonly Uint8Array[], from: number, to = Infinity): Uint8Array[] {
  const found: Uint8Array[] = [];
  let at = 0;
  for (const piece of pieces) {
    const part = piece.subarray(Math.max(0, from - at), Math.max(0, Math.min(piece.length, to - at)));
    if (part.length > 0) found.push(part);
    at += piece.length;
  }
  return found;
}

/** Fills `target` with the joined pieces from `from` on. */
function copyPieces(pieces: readonly Uint8Array[], from: number, target: Uint8Array): Uint8Array {
  let at = 0;
  for (const piece of cut(pieces, from, from + target.length)) {
    target.set(piece, at);
    at += piece.length;
  }
  return target;
}
