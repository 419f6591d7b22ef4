/** {@link Storage} of one process on a simulated disk. */
import { TidemarkError } from '../../../agent/src/core/errors.js';
import type { OpenMode, Storage, StorageFile } from '../../../agent/src/core/storage.js';
import type { IoKind, IoOwner, SimDisk } from './sim-disk.js';
import { sectorBytes, type SimInode } from './sim-inode.js';

export class SimStorage implements Storage {
  readonly #disk: SimDisk;
  readonly #owner: IoOwner;
  readonly #handles = new Set<SimFile>();

  constructor(disk: SimDisk, owner: IoOwner) {
    this.#disk = disk;
    this.#owner = owner;
  }

  open(path: string, mode: OpenMode): Promise<StorageFile> {
    return this.#submit('open', path, () => {
      const inode = this.#disk.tree.open(path, mode);
      const file = new SimFile(this.#disk, this.#owner, inode, path, mode !== 'read', () => {
        this.#handles.delete(file);
        this.#disk.tree.closed(inode);
      });
      this.#handles.add(file);
      return file;
    });
  }

  /** The process died: see SimDisk.abandon; the kernel closes its files. */
  abandon(): void {
    this.#disk.abandon(this.#owner);
    for (const file of this.#handles) file.release();
  }

  exists(path: string): Promise<boolean> {
    return this.#submit('stat', path, () => this.#disk.tree.find(path) !== undefined);
  }

  rename(from: string, to: string): Promise<void> {
    return this.#submit('rename', from, () => this.#disk.tree.rename(from, to));
  }

  remove(path: string): Promise<void> {
    return this.#submit('remove', path, () => this.#disk.tree.remove(path));
  }

  removeTree(path: string): Promise<void> {
    const { tree, random } = this.#disk;
    return this.#submit(
      'remove',
      path,
      () => void tree.removeTree(path),
      () => void tree.removeTree(path, random.int(16)),
    );
  }

  /** Now and then the file system cannot. */
  async clone(from: string, to: string): Promise<boolean> {
    if (this.#disk.random.chance(0.5)) return false;
    const source = await this.open(from, 'read');
    const bytes = new Uint8Array(await source.sizeBytes());
    await source.read(bytes, 0).finally(() => source.close());
    const target = await this.open(to, 'create');
    await target.write(bytes, 0).finally(() => target.close());
    return true;
  }

  list(directory: string): Promise<string[]> {
    return this.#submit('list', directory, () => [...this.#disk.tree.directory(directory).entries.keys()].sort());
  }

  makeDirectory(directory: string): Promise<void> {
    return this.#submit('makeDirectory', directory, () => this.#disk.tree.makeDirectory(directory));
  }

  syncDirectory(directory: string): Promise<void> {
    const { tree } = this.#disk;
    const { serial } = tree;
    return this.#submit('syncDirectory', directory, () => tree.directory(directory).syncBelow(serial));
  }

  freeBytes(path: string): Promise<number> {
    return this.#submit('stat', path, () => this.#disk.tree.freeBytes);
  }

  #submit<T>(kind: IoKind, path: string, effect: () => T, partialEffect?: () => void): Promise<T> {
    return this.#disk.submit(this.#owner, { kind, path, bytes: 0, effect, partialEffect });
  }
}

class SimFile implements StorageFile {
  readonly #disk: SimDisk;
  readonly #owner: IoOwner;
  readonly #inode: SimInode;
  readonly #path: string;
  readonly #writable: boolean;
  /** Gives the handle back to the kernel. */
  readonly release: () => void;
  #closed = false;

  constructor(disk: SimDisk, owner: IoOwner, inode: SimInode, path: string, writable: boolean, release: () => void) {
    this.#disk = disk;
    this.#owner = owner;
    this.#inode = inode;
    this.#path = path;
    this.#writable = writable;
    this.release = release;
  }

  read(target: Uint8Array, positionBytes: number): Promise<number> {
    return this.#submit('read', target.length, () => this.#inode.read(target, positionBytes));
  }

  write(source: Uint8Array, positionBytes: number): Promise<void> {
    return this.writeAll([source], positionBytes);
  }

  writeAll(sources: readonly Uint8Array[], positionBytes: number): Promise<void> {
    const { tree, random } = this.#disk;
    let bytes = 0;
    for (const source of sources) bytes += source.length;
    const put = (whole: Uint8Array): void => tree.write(this.#inode, this.#path, whole, positionBytes);
    return this.#submit(
      'write',
      bytes,
      () => put(concatenate(sources, bytes)),
      () => {
        // The kernel copies page by page: what a killed process leaves ends at a sector.
        const cut = random.int(bytes + 1);
        put(concatenate(sources, bytes).subarray(0, Math.max(0, cut - ((positionBytes + cut) % sectorBytes))));
      },
    );
  }

  datasync(): Promise<void> {
    const inode = this.#inode;
    const { tree, random } = this.#disk;
    const { serial } = inode;
    return this.#submit(
      'datasync',
      0,
      () => tree.resized(inode, () => inode.syncBelow(serial)),
      () => tree.resized(inode, () => inode.failSync(random)),
    );
  }

  truncate(lengthBytes: number): Promise<void> {
    const { tree } = this.#disk;
    return this.#submit('truncate', 0, () => tree.resized(this.#inode, () => this.#inode.truncate(lengthBytes)));
  }

  sizeBytes(): Promise<number> {
    return this.#submit('stat', 0, () => this.#inode.lengthBytes);
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    const closed = this.#submit('close', 0, this.release);
    this.#closed = true;
    return closed;
  }

  #submit<T>(kind: IoKind, bytes: number, effect: () => T, partialEffect?: () => void): Promise<T> {
    const path = this.#path;
    const refused = this.#closed || (!this.#writable && (kind === 'write' || kind === 'truncate'));
    if (refused)
      return Promise.reject(new TidemarkError('storage-io', `simulated: ${kind} of ${path} on this handle`, { path }));
    return this.#disk.submit(this.#owner, { kind, path, bytes, effect, partialEffect });
  }
}

function concatenate(sources: readonly Uint8Array[], bytes: number): Uint8Array {
  const whole = new Uint8Array(bytes);
  let done = 0;
  for (const source of sources) {
    whole.set(source, done);
    done += source.length;
  }
  return whole;
}
