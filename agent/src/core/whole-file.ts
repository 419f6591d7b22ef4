/** Small files that are written whole: after a crash there is the old text or the new one. */
import type { Storage } from './storage.js';

/** Replaces the file; durable when it returns. Throws a storage error. One writer a path. */
export async function writeWhole(storage: Storage, directory: string, name: string, text: string): Promise<void> {
  const path = `${directory}/${name}`;
  const partial = `${path}.partial`;
  await storage.remove(partial);
  const file = await storage.open(partial, 'create');
  try {
    await file.write(Buffer.from(text), 0);
    await file.datasync();
  } finally {
    await file.close();
  }
  await storage.rename(partial, path);
  await storage.syncDirectory(directory);
}

/** The text, or undefined when the file is longer than `bytesMax`. Throws `storage-not-found` or `storage-io`. */
export async function readWhole(storage: Storage, path: string, bytesMax: number): Promise<string | undefined> {
  const file = await storage.open(path, 'read');
  try {
    const bytes = Buffer.alloc(Math.min(await file.sizeBytes(), bytesMax + 1));
    const count = await file.read(bytes, 0);
    return count > bytesMax ? undefined : bytes.toString('utf8', 0, count);
  } finally {
    await file.close();
  }
}
