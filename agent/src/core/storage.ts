/**
 * Disk as a parameter. Production maps it to a directory tree of the host, the simulation to a model that loses,
 * tears and corrupts.
 *
 * Durability contract (what callers may rely on, and all that they may rely on):
 * - bytes written are durable only after a later `datasync` of the same file returned without error; before that a
 *   crash may keep or lose each 512-byte sector of them, in any order (a sector itself is whole: old or new);
 * - a created, renamed or removed name is durable only after a later `syncDirectory` of its directory returned;
 * - `datasync` also makes the file's size durable;
 * - after a failed `datasync` the unsynced bytes are undefined, whatever reads return: the caller must not trust them.
 */
export interface StorageFile {
  /** Reads into `target` at `positionBytes`; returns the bytes read, fewer than asked only at the end of the file. */
  read(target: Uint8Array, positionBytes: number): Promise<number>;
  /** Writes all of `source` or throws (a throw may leave any part written). Extends the file; a gap reads as zeros. */
  write(source: Uint8Array, positionBytes: number): Promise<void>;
  /** Writes the pieces one after the other from `positionBytes`, or throws. */
  writeAll(sources: readonly Uint8Array[], positionBytes: number): Promise<void>;
  /** fdatasync. Throws on failure; see the contract above. */
  datasync(): Promise<void>;
  /** Cuts or extends (sparse) the file. */
  truncate(lengthBytes: number): Promise<void>;
  sizeBytes(): Promise<number>;
  /** Idempotent. Does not sync. */
  close(): Promise<void>;
}

/** `read`: must exist. `write`: read-write, must exist. `create`: read-write, must not exist. */
export type OpenMode = 'read' | 'write' | 'create';

export interface OpenOptions {
  /** Mostly large writes that are not read again soon: a hint that they need not go through the page cache. */
  readonly bulk?: boolean;
}

export interface Storage {
  /** Throws TidemarkError `storage-not-found` / `storage-exists` / `storage-full` / `storage-io`. */
  open(path: string, mode: OpenMode, options?: OpenOptions): Promise<StorageFile>;
  exists(path: string): Promise<boolean>;
  /** Atomically replaces `to` when it exists. Durable after syncDirectory of both directories. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file; a missing one is not an error. */
  remove(path: string): Promise<void>;
  /** Removes a directory and everything in it; a missing one is not an error. */
  removeTree(path: string): Promise<void>;
  /** Names (not paths) in a directory, sorted. Missing directory: `storage-not-found`. */
  list(directory: string): Promise<string[]>;
  /**
   * Makes `to`, which must not exist, a copy of `from` that shares its blocks; neither name nor content is synced. False:
   * the file system cannot, nothing was made. Left out: this storage never can.
   */
  clone?(from: string, to: string): Promise<boolean>;
  /** Creates the directory and its parents; durable (parents synced) when it returns. */
  makeDirectory(directory: string): Promise<void>;
  syncDirectory(directory: string): Promise<void>;
  /** Bytes that may still be written on the file system of `path`. */
  freeBytes(path: string): Promise<number>;
}
