/** Operating system errors as the codes of the error table. */
import { TidemarkError, type ErrorCode } from '../core/errors.js';

const storageCodes: Record<string, ErrorCode> = {
  ENOENT: 'storage-not-found',
  ENOTDIR: 'storage-not-found',
  EEXIST: 'storage-exists',
  ENOTEMPTY: 'storage-exists',
  ENOSPC: 'storage-full',
  EDQUOT: 'storage-full',
};

/** The `errno` name (`ENOENT`, …) of an error of node, undefined for others. Errors of another realm count too. */
export function errnoOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** What failed on which path, with the cause kept. Anything without a code of its own is `storage-io`. */
export function storageError(action: string, path: string, cause: unknown): TidemarkError {
  const errno = errnoOf(cause);
  const code = (errno === undefined ? undefined : storageCodes[errno]) ?? 'storage-io';
  const detail = errno ?? String(cause);
  return new TidemarkError(code, `cannot ${action} ${path}: ${detail}`, { path, cause });
}
