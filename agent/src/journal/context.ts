/** What every part of one journal shares. */
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import { BoundedCache } from './bounded-cache.js';
import { segmentKey } from './encryption.js';
import { FileHandles } from './file-handles.js';

export interface JournalContext {
  readonly storage: Storage;
  readonly random: Random;
  readonly uuid: string;
  readonly key: Uint8Array | undefined;
  readonly segmentDirectory: string;
  readonly indexDirectory: string;
  readonly segmentBytes: number;
  readonly segmentRecords: number;
  readonly files: FileHandles;
  /** Pages of index runs. */
  readonly pages: BoundedCache<number, DataView>;
  /** Decoded bodies of compressed or encrypted entries. */
  readonly bodies: BoundedCache<string, Uint8Array>;
}

export interface ContextInput {
  readonly storage: Storage;
  readonly random: Random;
  readonly directory: string;
  readonly uuid: string;
  readonly key?: Uint8Array | undefined;
  readonly segmentBytes?: number | undefined;
  readonly segmentRecords?: number | undefined;
  readonly bodyCacheBytes?: number | undefined;
  readonly pageCacheBytes?: number | undefined;
}

const mebibyte = 1024 * 1024;

export function createContext(input: ContextInput): JournalContext {
  return {
    storage: input.storage,
    random: input.random,
    uuid: input.uuid,
    key: input.key,
    segmentDirectory: `${input.directory}/segments`,
    indexDirectory: `${input.directory}/index`,
    segmentBytes: input.segmentBytes ?? 64 * mebibyte,
    segmentRecords: input.segmentRecords ?? 131_072,
    files: new FileHandles(input.storage),
    pages: new BoundedCache(input.pageCacheBytes ?? 16 * mebibyte),
    bodies: new BoundedCache(input.bodyCacheBytes ?? 16 * mebibyte),
  };
}

export function segmentPath(context: JournalContext, id: number): string {
  return `${context.segmentDirectory}/${String(id).padStart(10, '0')}.seg`;
}

export function keyOfSegment(context: JournalContext, salt: Uint8Array, encrypted: boolean): Buffer | undefined {
  return encrypted && context.key !== undefined ? segmentKey(context.key, salt) : undefined;
}
