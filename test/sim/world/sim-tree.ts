/** The simulated file system: directories, files, space. Every operation takes effect at once; see SimDisk for time. */
import { TidemarkError, type ErrorCode } from '../../../agent/src/core/errors.js';
import type { OpenMode } from '../../../agent/src/core/storage.js';
import { SimDirectory, type NameChange, type SimNode } from './sim-directory.js';
import { SimInode } from './sim-inode.js';
import type { SimRandom } from './sim-random.js';

export class SimTree {
  readonly #root = new SimDirectory();
  #serial = 0;
  #usedBytes = 0;
  capacityBytes = Infinity;

  /** Every name change so far has a serial below this. */
  get serial(): number {
    return this.#serial;
  }

  get freeBytes(): number {
    return Math.max(0, this.capacityBytes - this.#usedBytes);
  }

  /** Undefined when nothing has this path. */
  find(path: string): SimNode | undefined {
    let node: SimNode | undefined = this.#root;
    for (const name of names(path)) node = node instanceof SimDirectory ? node.entries.get(name) : undefined;
    return node;
  }

  directory(path: string): SimDirectory {
    const node = this.find(path);
    if (!(node instanceof SimDirectory)) throw fail('storage-not-found', path);
    return node;
  }

  open(path: string, mode: OpenMode): SimInode {
    const node = this.find(path);
    if (mode !== 'create') {
      if (node === undefined) throw fail('storage-not-found', path);
      if (node instanceof SimDirectory) throw fail('storage-io', path);
      node.openCount += 1;
      return node;
    }
    if (node !== undefined) throw fail('storage-exists', path);
    if (this.freeBytes === 0) throw fail('storage-full', path);
    const inode = new SimInode();
    const [parent, name] = this.#parentOf(path);
    this.#change(parent, [[name, inode]]);
    inode.openCount += 1;
    return inode;
  }

  closed(inode: SimInode): void {
    inode.openCount -= 1;
    this.#freeIfGone(inode);
  }

  /** Writes as much as there is room for; throws `storage-full` after a part when it was not all. */
  write(inode: SimInode, path: string, bytes: Uint8Array, positionBytes: number): void {
    let room = bytes;
    if (inode.growthBytes(positionBytes, bytes.length) > this.freeBytes) room = bytes.subarray(0, this.freeBytes);
    if (inode.growthBytes(positionBytes, room.length) > this.freeBytes) room = bytes.subarray(0, 0);
    this.resized(inode, () => inode.write(room, positionBytes));
    if (room.length < bytes.length) throw fail('storage-full', path);
  }

  /** Runs what may change the space that a file takes. */
  resized(inode: SimInode, change: () => void): void {
    const before = inode.allocatedBytes;
    change();
    this.#usedBytes += inode.allocatedBytes - before;
  }

  rename(from: string, to: string): void {
    const node = this.find(from);
    if (node === undefined) throw fail('storage-not-found', from);
    const [fromParent, fromName] = this.#parentOf(from);
    const [toParent, toName] = this.#parentOf(to);
    const replaced = toParent.entries.get(toName);
    if (replaced === node) return;
    if (replaced instanceof SimDirectory && replaced.entries.size > 0) throw fail('storage-exists', to);
    if (fromParent === toParent) {
      const both = [[fromName, undefined] as const, [toName, node] as const];
      this.#change(fromParent, both);
      return;
    }
    const rename = { linkDurable: false, kept: undefined };
    this.#change(toParent, [[toName, node]], { rename, half: 'link' });
    this.#change(fromParent, [[fromName, undefined]], { rename, half: 'unlink' });
  }

  /** A file only; a missing one is no error. */
  remove(path: string): void {
    const node = this.find(path);
    if (node === undefined) return;
    if (node instanceof SimDirectory) throw fail('storage-io', path);
    this.#unlink(path);
  }

  /** Removes up to `countMax` names, children first; true when the tree is gone. */
  removeTree(path: string, countMax = Infinity): boolean {
    let left = countMax;
    const removeAll = (child: string): boolean => {
      const node = this.find(child);
      if (node instanceof SimDirectory) {
        for (const name of [...node.entries.keys()].sort()) if (!removeAll(`${child}/${name}`)) return false;
      }
      if (node === undefined) return true;
      if (left <= 0) return false;
      left -= 1;
      this.#unlink(child);
      return true;
    };
    return removeAll(path);
  }

  /** Durable at once, with every parent. */
  makeDirectory(path: string): void {
    let directory = this.#root;
    for (const name of names(path)) {
      const existing = directory.entries.get(name);
      if (existing instanceof SimInode) throw fail('storage-exists', path);
      const child = existing ?? new SimDirectory();
      if (existing === undefined) this.#change(directory, [[name, child]]);
      directory.syncBelow(this.#serial);
      directory = child;
    }
  }

  /** Paths of all files, in order of their names. */
  paths(): string[] {
    return [...this.#files(this.#root, '')].map(([path]) => path).sort();
  }

  /** The machine lost power: decides over every unsynced name and byte. Handles from before are void. */
  crash(random: SimRandom): void {
    const keep = chooseKeep(random, this.#serial);
    this.#crashDirectory(this.#root, keep, random, new Set());
    this.#usedBytes = 0;
    const inodes = new Set<SimInode>();
    for (const [, inode] of this.#files(this.#root, '')) {
      inode.linkCount = inodes.has(inode) ? inode.linkCount + 1 : 1;
      inodes.add(inode);
    }
    for (const inode of inodes) this.#usedBytes += inode.allocatedBytes;
  }

  #crashDirectory(
    directory: SimDirectory,
    keep: (change: NameChange) => boolean,
    random: SimRandom,
    seen: Set<SimNode>,
  ): void {
    directory.crash(keep);
    for (const node of directory.entries.values()) {
      if (seen.has(node)) continue;
      seen.add(node);
      if (node instanceof SimDirectory) this.#crashDirectory(node, keep, random, seen);
      else node.crash(random);
    }
  }

  *#files(directory: SimDirectory, prefix: string): Generator<[path: string, inode: SimInode]> {
    for (const [name, node] of directory.entries) {
      if (node instanceof SimDirectory) yield* this.#files(node, `${prefix}/${name}`);
      else yield [`${prefix}/${name}`, node];
    }
  }

  #unlink(path: string): void {
    const [parent, name] = this.#parentOf(path);
    this.#change(parent, [[name, undefined]]);
  }

  #change(directory: SimDirectory, changed: NameChange['names'], pair?: NameChange['pair']): void {
    const before = changed.map(([name]) => directory.entries.get(name));
    directory.change({ serial: this.#serial++, names: changed, ...(pair === undefined ? {} : { pair }) });
    for (const [, node] of changed) if (node instanceof SimInode) node.linkCount += 1;
    for (const node of before) {
      if (!(node instanceof SimInode)) continue;
      node.linkCount -= 1;
      this.#freeIfGone(node);
    }
  }

  #freeIfGone(inode: SimInode): void {
    if (inode.linkCount === 0 && inode.openCount === 0) this.#usedBytes -= inode.allocatedBytes;
  }

  #parentOf(path: string): [parent: SimDirectory, name: string] {
    const parts = names(path);
    const name = parts.pop();
    if (name === undefined) throw fail('storage-io', path);
    return [this.directory(parts.join('/')), name];
  }
}

/** Four ways of crashing: all names kept, all lost, a journalled prefix, or each for itself. */
function chooseKeep(random: SimRandom, serial: number): (change: NameChange) => boolean {
  switch (random.int(4)) {
    case 0:
      return () => true;
    case 1:
      return () => false;
    case 2: {
      const end = serial - Math.floor(16 * random.float() ** 2);
      return (change) => change.serial < end;
    }
    default:
      return () => random.chance(0.5);
  }
}

function names(path: string): string[] {
  return path.split('/').filter((name) => name !== '' && name !== '.');
}

function fail(code: ErrorCode, path: string): TidemarkError {
  return new TidemarkError(code, `simulated: ${code} for ${path}`, { path });
}
