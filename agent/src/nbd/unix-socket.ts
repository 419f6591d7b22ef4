/**
 * Listening on a unix socket that nobody but our user can ever connect to: it is made inside a private directory, given
 * mode 0600 there and then linked to its place. A file left by a dead process is replaced; one that somebody listens on,
 * or that is no socket, is not.
 */
import { chmod, link, lstat, mkdtemp, rm, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { TidemarkError } from '../core/errors.js';

/** Longest path of a unix socket on Linux. */
const pathBytesMax = 107;

/** Throws `config-invalid`, `storage-exists` or `storage-io`. */
export async function listenUnix(server: Server, path: string): Promise<void> {
  const directory = dirname(path);
  const privateBytes = Buffer.byteLength(join(directory, '.nXXXXXX', 's'));
  if (Math.max(Buffer.byteLength(path), privateBytes) > pathBytesMax) {
    throw new TidemarkError('config-invalid', `The path of a unix socket has at most ${pathBytesMax} bytes.`, { path });
  }
  try {
    await removeStale(path);
    const hidden = await mkdtemp(join(directory, '.n'));
    try {
      const inside = join(hidden, 's');
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen({ path: inside }, () => {
          server.off('error', reject);
          resolve();
        });
      });
      await chmod(inside, 0o600);
      await link(inside, path);
    } finally {
      await rm(hidden, { recursive: true, force: true });
    }
  } catch (error) {
    server.close();
    if (error instanceof TidemarkError) throw error;
    const code = (error as NodeJS.ErrnoException).code === 'EEXIST' ? 'storage-exists' : 'storage-io';
    throw new TidemarkError(code, `Cannot listen on ${basename(path)}: ${(error as Error).message}`, {
      path,
      cause: error,
    });
  }
}

/** Removes the name of a socket that was listened on; a missing one is not an error. */
export async function removeUnixSocket(path: string): Promise<void> {
  await unlink(path).catch(() => undefined);
}

async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket()) throw new TidemarkError('storage-exists', 'There is a file that is no socket.', { path });
  if (await someoneListens(path)) throw new TidemarkError('storage-exists', 'Another process listens here.', { path });
  await unlink(path);
}

function someoneListens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    const done = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', () => done(true));
    socket.once('error', (error: NodeJS.ErrnoException) =>
      done(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}
