/** Read handles of segment and index files, kept open for reuse, at most {@link handleCountMax} while idle. */
import type { Storage, StorageFile } from '../core/storage.js';

export const handleCountMax = 512;

interface Handle {
  readonly file: Promise<StorageFile>;
  users: number;
  closed: boolean;
}

export class FileHandles {
  readonly #handles = new Map<string, Handle>();

  constructor(private readonly storage: Storage) {}

  /** Reads up to `lengthBytes`; fewer only at the end of the file. */
  async read(path: string, positionBytes: number, lengthBytes: number): Promise<Buffer> {
    const target = Buffer.allocUnsafeSlow(lengthBytes);
    const count = await this.readInto(path, positionBytes, target);
    return target.subarray(0, count);
  }

  async readInto(path: string, positionBytes: number, target: Uint8Array): Promise<number> {
    const handle = this.#take(path);
    handle.users++;
    try {
      return await (await handle.file).read(target, positionBytes);
    } finally {
      handle.users--;
      if (handle.closed) await this.#closeIdle(handle);
    }
  }

  /** Closes the handle of a file that goes away (or of all files) once its readers are done. */
  async close(path?: string): Promise<void> {
    const paths = path === undefined ? [...this.#handles.keys()] : [path];
    for (const each of paths) {
      const handle = this.#handles.get(each);
      if (handle === undefined) continue;
      this.#handles.delete(each);
      handle.closed = true;
      await this.#closeIdle(handle);
    }
  }

  #take(path: string): Handle {
    const known = this.#handles.get(path);
    this.#handles.delete(path);
    const handle = known ?? { file: this.storage.open(path, 'read'), users: 0, closed: false };
    if (known === undefined) {
      // A failed open is not remembered.
      handle.file.catch(() => this.#handles.delete(path));
    }
    this.#handles.set(path, handle);
    if (this.#handles.size > handleCountMax) this.#dropOldest();
    return handle;
  }

  #dropOldest(): void {
    for (const [path, handle] of this.#handles) {
      if (handle.users > 0) continue;
      this.#handles.delete(path);
      handle.closed = true;
      void this.#closeIdle(handle);
      return;
    }
  }

  async #closeIdle(handle: Handle): Promise<void> {
    if (handle.users > 0) return;
    await handle.file.then((file) => file.close()).catch(() => undefined);
  }
}
