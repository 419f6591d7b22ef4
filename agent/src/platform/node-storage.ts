/** The host's file system. Files are created with mode 0600, directories with 0700. */
import { close, constants, fsync, open, promises as fs } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { promisify } from 'node:util';
import type { OpenMode, OpenOptions, Storage, StorageFile } from '../core/storage.js';
import { errnoOf, storageError } from './node-errors.js';
import { NodeFile } from './node-file.js';

const openFd = promisify(open);
const closeFd = promisify(close);
const syncFd = promisify(fsync);

/** Another file system, or one without reflinks. */
const cannotClone = new Set(['ENOTSUP', 'EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOSYS', 'ENOTTY']);

const flags: Record<OpenMode, number> = {
  read: constants.O_RDONLY,
  write: constants.O_RDWR,
  create: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
};

export class NodeStorage implements Storage {
  async open(path: string, mode: OpenMode, { bulk = false }: OpenOptions = {}): Promise<StorageFile> {
    const fd = await attempt('open', path, () => openFd(path, flags[mode], 0o600));
    return new NodeFile(fd, path, bulk ? await openDirect(fd) : undefined);
  }

  async exists(path: string): Promise<boolean> {
    try {
      await fs.stat(path);
      return true;
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'ENOENT' || errno === 'ENOTDIR') return false;
      throw storageError('look up', path, error);
    }
  }

  async rename(from: string, to: string): Promise<void> {
    await attempt('rename', from, () => fs.rename(from, to));
  }

  async remove(path: string): Promise<void> {
    try {
      await fs.unlink(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw storageError('remove', path, error);
    }
  }

  async removeTree(path: string): Promise<void> {
    await attempt('remove', path, () => fs.rm(path, { recursive: true, force: true }));
  }

  async clone(from: string, to: string): Promise<boolean> {
    try {
      await fs.copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
      await fs.chmod(to, 0o600);
      return true;
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'EEXIST') throw storageError('clone', to, error);
      await this.remove(to);
      if (cannotClone.has(errno ?? '')) return false;
      throw storageError('clone', from, error);
    }
  }

  async list(directory: string): Promise<string[]> {
    return (await attempt('list', directory, () => fs.readdir(directory))).sort();
  }

  async makeDirectory(directory: string): Promise<void> {
    const path = resolve(directory);
    await attempt('create', path, () => fs.mkdir(path, { recursive: true, mode: 0o700 }));
    // A killed process may have made any ancestor without syncing its name, so an existing one proves nothing.
    for (let child = path; child !== '/'; child = dirname(child)) {
      if (!(await this.#syncIfAllowed(dirname(child)))) return;
    }
  }

  async syncDirectory(directory: string): Promise<void> {
    await attempt('sync', directory, () => syncPath(directory));
  }

  async freeBytes(path: string): Promise<number> {
    const { bavail, bsize } = await attempt('stat', path, () => fs.statfs(path));
    return bavail * bsize;
  }

  /** False for an ancestor that belongs to somebody else: it was there before this process could make anything. */
  async #syncIfAllowed(directory: string): Promise<boolean> {
    try {
      await syncPath(directory);
      return true;
    } catch (error) {
      if (errnoOf(error) === 'EACCES') return false;
      throw storageError('sync', directory, error);
    }
  }
}

/** Undefined: the file system cannot. By the descriptor, since the name may be another file's by now. */
async function openDirect(fd: number): Promise<number | undefined> {
  try {
    return await openFd(`/proc/self/fd/${fd}`, constants.O_RDWR | constants.O_DIRECT);
  } catch {
    return undefined;
  }
}

async function syncPath(directory: string): Promise<void> {
  const fd = await openFd(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await syncFd(fd);
  } finally {
    await closeFd(fd);
  }
}

async function attempt<T>(action: string, path: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw storageError(action, path, error);
  }
}
