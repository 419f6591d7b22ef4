/** Secrets of hooks, in files of the agent host. */
import { readFile } from 'node:fs/promises';
import { TidemarkError } from '../core/errors.js';

/** Without the line's end. */
export async function secretOf(file: string): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).replace(/\r?\n$/, '');
  } catch (cause) {
    throw new TidemarkError('config-invalid', `A secret of the hooks cannot be read: ${(cause as Error).message}`, {
      ...{ path: 'hooks.vms', cause },
    });
  }
}
