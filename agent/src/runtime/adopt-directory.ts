/**
 * Moves the group directory of a dead appliance below our own. On one file system it is a rename; else every file is
 * copied, fsynced and compared, the copy renamed into its place, and the original set aside as FROM.adopted, so that no
 * other agent takes the same group over. A crash leaves the original, or our group, never half of one under its name.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstat, open, readdir, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { TidemarkError } from '../core/errors.js';
import type { Storage } from '../core/storage.js';

/** In the group's directory: where it was taken from. */
const markerName = 'adopted-from';

/** True when the group's directory was taken over from there. */
export async function wasAdopted(storage: Storage, group: string, from: string): Promise<boolean> {
  const path = `${group}/${markerName}`;
  if (!(await storage.exists(path))) return false;
  const file = await storage.open(path, 'read');
  try {
    const text = Buffer.alloc(await file.sizeBytes());
    await file.read(text, 0);
    return text.toString('utf8') === from;
  } finally {
    await file.close();
  }
}

/** Durable when it returns. Throws `storage-not-found` when `from` holds no group. */
export async function adoptDirectory(storage: Storage, from: string, groups: string, name: string): Promise<void> {
  const to = join(groups, name);
  // A run that was cut short after the move: the group could not be opened then.
  if (!(await storage.exists(from)) && (await wasAdopted(storage, to, from))) return;
  if (!(await storage.exists(`${from}/manifest-current`))) {
    throw new TidemarkError('storage-not-found', `${from} is not the directory of a group.`, { path: from });
  }
  if (await storage.exists(to)) throw new TidemarkError('storage-exists', `${to} exists.`, { path: to });
  await mark(storage, from);
  if ((await stat(from)).dev === (await stat(groups)).dev) {
    await storage.rename(from, to);
    await storage.syncDirectory(groups);
    await storage.syncDirectory(dirname(from));
    return;
  }
  const partial = join(groups, `.adopting-${name}`);
  await storage.removeTree(partial);
  await copy(from, partial);
  await settle(from, partial);
  await storage.rename(partial, to);
  await storage.syncDirectory(groups);
  await rename(from, `${from}.adopted`);
  await storage.syncDirectory(dirname(from));
}

/** cp of the host: it keeps holes. */
async function copy(from: string, to: string): Promise<void> {
  try {
    await promisify(execFile)('cp', ['-a', '--sparse=always', '--', from, to]);
  } catch (cause) {
    throw new TidemarkError('storage-io', `${from} cannot be copied: ${(cause as Error).message}`, {
      path: from,
      cause,
    });
  }
}

async function mark(storage: Storage, from: string): Promise<void> {
  const path = `${from}/${markerName}`;
  await storage.remove(path);
  const file = await storage.open(path, 'create');
  try {
    await file.write(Buffer.from(from), 0);
    await file.datasync();
  } finally {
    await file.close();
  }
  await storage.syncDirectory(from);
}

/** Syncs the copy, file by file, and reads both sides to compare. */
async function settle(from: string, copy: string): Promise<void> {
  for (const name of await readdir(from)) {
    const [one, other] = [join(from, name), join(copy, name)];
    if ((await lstat(one)).isDirectory()) {
      await settle(one, other);
      continue;
    }
    const handle = await open(other, 'r+');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
    if ((await digest(one)) !== (await digest(other))) {
      throw new TidemarkError('storage-io', `${other} differs from ${one} after the copy.`, { path: other });
    }
  }
  const directory = await open(copy, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

async function digest(file: string): Promise<string> {
  const sum = createHash('sha256');
  const handle = await open(file, 'r');
  try {
    for await (const chunk of handle.createReadStream({ autoClose: false, highWaterMark: 1024 * 1024 }))
      sum.update(chunk as Buffer);
  } finally {
    await handle.close();
  }
  return sum.digest('hex');
}
