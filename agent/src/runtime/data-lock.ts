/**
 * One agent for a data directory: a name in the kernel's abstract socket space, made from the directory's inode, that
 * only one process can hold and that is free again at once when the process dies, however it dies.
 */
import { stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { TidemarkError } from '../core/errors.js';

export interface DataLock {
  release(): void;
}

/** Throws `storage-exists` while another agent of this host holds the directory. */
export async function lockDirectory(directory: string): Promise<DataLock> {
  const { dev, ino } = await stat(directory);
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new TidemarkError('storage-exists', `Another agent runs on ${directory}.`, { path: 'dataDirectory', cause }),
      ),
    );
    server.listen({ path: `\0tidemark-${dev}-${ino}` }, resolve);
  });
  server.unref();
  return { release: () => void server.close() };
}
