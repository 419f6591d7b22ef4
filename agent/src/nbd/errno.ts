/** Failures on the wire: NBD's error numbers and the errors of this process. */
import { isTidemarkError } from '../core/errors.js';
import { NbdError, type NbdErrorName } from './backend.js';

const numbers: Readonly<Record<NbdErrorName, number>> = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
};

const names = new Map(Object.entries(numbers).map(([name, value]) => [value, name as NbdErrorName]));

export function errnoOf(name: NbdErrorName): number {
  return numbers[name];
}

/** The protocol: a client treats a number it does not know as EINVAL. */
export function errnoName(value: number): NbdErrorName {
  return names.get(value) ?? 'EINVAL';
}

/** What a client is told of a backend's failure; undefined when it is no expected failure but a fault of ours. */
export function wireErrorOf(error: unknown): NbdErrorName | undefined {
  if (error instanceof NbdError) return error.code;
  if (!isTidemarkError(error)) return undefined;
  if (error.code === 'storage-full' || error.code === 'scratch-full') return 'ENOSPC';
  if (error.code === 'shutting-down') return 'ESHUTDOWN';
  return 'EIO';
}
