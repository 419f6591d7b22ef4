/** Whether a file can be the seed of a disk: checked before the group is made, so that a mistake costs nothing. */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { Storage } from '../core/storage.js';

const qcow2Magic = 0x514649fb;

/** Throws `request-invalid` at `path`: not there, not readable, not raw, larger than the disk. */
export async function checkSeed(storage: Storage, seed: string, sizeBytes: number, path: string): Promise<void> {
  const refuse = (why: string, cause?: unknown): TidemarkError =>
    new TidemarkError('request-invalid', `The seed ${seed} ${why}.`, { path, cause });
  const file = await storage.open(seed, 'read').catch((error: unknown) => {
    throw isTidemarkError(error) ? refuse(`cannot be opened: ${error.message}`, error) : error;
  });
  try {
    const seedBytes = await file.sizeBytes();
    if (seedBytes === 0) throw refuse('is empty, or no regular file');
    if (seedBytes > sizeBytes) throw refuse(`has ${seedBytes} bytes, more than the disk's ${sizeBytes}`);
    const start = new Uint8Array(4);
    const count = await file.read(start, 0);
    if (count === 4 && new DataView(start.buffer).getUint32(0) === qcow2Magic)
      throw refuse('is a qcow2 image: convert it to raw first (qemu-img convert -O raw)');
  } finally {
    await file.close();
  }
}
