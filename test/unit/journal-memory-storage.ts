/** A small Storage in memory that forgets unsynced bytes and names on `crash`, for unit tests. */
import { TidemarkError } from '../../agent/src/core/errors.js';
import type { OpenMode, Storage, StorageFile } from '../../agent/src/core/storage.js';

class Node {
  live: Buffer = Buffer.alloc(0);
  durable: Buffer = Buffer.alloc(0);
  /** 512-byte sectors written since the last datasync, and those that a failed one lost though reads show them. */
  dirty = new Set<number>();
  lost = new Set<number>();
}

export class MemoryStorage implements Storage {
  names = new Map<string, Node>();
  durableNames = new Map<string, Node>();
  /** Called before each I/O; may throw. */
  fault: ((operation: string, path: string) => void) | undefined;
  bytesWritten = 0;
  /** Files of before a crash do nothing. */
  generation = 0;

  /** Power loss: each unsynced 512-byte sector is kept with the given chance, names fall back to the synced ones. */
  crash(random: () => number): void {
    this.generation++;
    this.names = new Map(this.durableNames);
    for (const node of new Set(this.names.values())) {
      const length = random() < 0.5 ? node.live.length : node.durable.length;
      const next = Buffer.alloc(length);
      for (let at = 0; at < length; at += 512) {
        const source = random() < 0.5 && !node.lost.has(at / 512) ? node.live : node.durable;
        if (at < source.length) source.copy(next, at, at, Math.min(at + 512, length));
      }
      node.live = next;
      node.durable = Buffer.from(next);
      node.dirty.clear();
      node.lost.clear();
    }
  }

  #node(path: string): Node {
    const node = this.names.get(path);
    if (!node) throw new TidemarkError('storage-not-found', path);
    return node;
  }

  bytes(path: string): Buffer {
    return this.#node(path).live;
  }

  async open(path: string, mode: OpenMode): Promise<StorageFile> {
    this.fault?.('open', path);
    if (mode === 'create') {
      if (this.names.has(path)) throw new TidemarkError('storage-exists', path);
      this.names.set(path, new Node());
    }
    const node = this.#node(path);
    const generation = this.generation;
    const check = (operation: string): void => {
      if (generation !== this.generation) throw new TidemarkError('storage-io', 'crashed');
      this.fault?.(operation, path);
    };
    const write = (source: Uint8Array, at: number): void => {
      if (node.live.length < at + source.length) {
        node.live = Buffer.concat([node.live, Buffer.alloc(at + source.length - node.live.length)]);
      }
      node.live.set(source, at);
      for (let sector = Math.floor(at / 512); sector * 512 < at + source.length; sector++) {
        node.dirty.add(sector);
        node.lost.delete(sector);
      }
      this.bytesWritten += source.length;
    };
    return {
      read: async (target, at) => {
        check('read');
        const part = node.live.subarray(at, at + target.length);
        target.set(part);
        return part.length;
      },
      write: async (source, at) => {
        check('write');
        write(source, at);
      },
      writeAll: async (sources, at) => {
        check('write');
        write(Buffer.concat(sources), at);
      },
      datasync: async () => {
        try {
          check('datasync');
        } catch (error) {
          for (const sector of node.dirty) node.lost.add(sector);
          node.dirty.clear();
          throw error;
        }
        await Promise.resolve();
        check('datasynced');
        const next = Buffer.from(node.live);
        for (const sector of node.lost) {
          next.fill(0, sector * 512, (sector + 1) * 512);
          node.durable.copy(next, Math.min(sector * 512, next.length), sector * 512, (sector + 1) * 512);
        }
        node.durable = next;
        node.dirty.clear();
      },
      truncate: async (length) => {
        check('truncate');
        node.live = Buffer.concat([node.live, Buffer.alloc(Math.max(0, length - node.live.length))]).subarray(
          0,
          length,
        );
      },
      sizeBytes: async () => node.live.length,
      close: async () => {},
    };
  }
  async exists(path: string): Promise<boolean> {
    return this.names.has(path);
  }
  async rename(from: string, to: string): Promise<void> {
    this.fault?.('rename', to);
    this.names.set(to, this.#node(from));
    this.names.delete(from);
  }
  async remove(path: string): Promise<void> {
    this.fault?.('remove', path);
    this.names.delete(path);
  }
  async removeTree(path: string): Promise<void> {
    for (const name of this.names.keys()) if (name.startsWith(`${path}/`)) this.names.delete(name);
  }
  async list(directory: string): Promise<string[]> {
    return [...this.names.keys()]
      .filter((name) => name.startsWith(`${directory}/`) && !name.slice(directory.length + 1).includes('/'))
      .map((name) => name.slice(directory.length + 1))
      .sort();
  }
  async makeDirectory(): Promise<void> {}
  async syncDirectory(directory: string): Promise<void> {
    this.fault?.('syncDirectory', directory);
    const inside = (name: string): boolean =>
      name.startsWith(`${directory}/`) && !name.slice(directory.length + 1).includes('/');
    for (const name of [...this.durableNames.keys()]) if (inside(name)) this.durableNames.delete(name);
    for (const [name, node] of this.names) if (inside(name)) this.durableNames.set(name, node);
  }
  async freeBytes(): Promise<number> {
    return 1e12;
  }
}

/** mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
