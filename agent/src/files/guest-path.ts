/** Paths inside a guest's file system: a link there never leads out of it, whatever it says. */
import { lstat, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { TidemarkError } from '../core/errors.js';

const linkCountMax = 40;

/** The place on this host of a path in the guest, links followed within `root`. Throws `storage-not-found`. */
export async function guestPath(root: string, path: string): Promise<string> {
  let waiting = parts(path);
  let done: string[] = [];
  for (let links = 0; waiting.length > 0;) {
    const [name = '', ...rest] = waiting;
    waiting = rest;
    if (name === '..') {
      done = done.slice(0, -1);
      continue;
    }
    const here = join(root, ...done, name);
    const found = await lstat(here).catch((cause: Error) => {
      throw new TidemarkError('storage-not-found', `There is no ${path} in this checkpoint.`, { path, cause });
    });
    if (!found.isSymbolicLink()) {
      done = [...done, name];
      continue;
    }
    if (++links > linkCountMax) throw new TidemarkError('storage-not-found', `${path} is a circle of links.`, { path });
    const target = await readlink(here);
    if (target.startsWith('/')) done = [];
    waiting = [...parts(target), ...waiting];
  }
  return join(root, ...done);
}

function parts(path: string): string[] {
  return path.split('/').filter((name) => name !== '' && name !== '.');
}
