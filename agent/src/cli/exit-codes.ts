/** What the exit code of `tidemark` says; documented in docs/cli.md. */
import type { ErrorCode } from '../core/errors.js';
import { isTidemarkError } from '../core/errors.js';

export const exitCodes = {
  ok: 0,
  failure: 1,
  usage: 2,
  refused: 3,
  unreachable: 4,
  verification: 5,
} as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

export const exitCodeMeanings: Readonly<Record<ExitCode, string>> = {
  0: 'done',
  1: 'failed',
  2: 'wrong use: arguments, configuration',
  3: 'refused: the state, the role or a name does not allow it',
  4: 'the agent cannot be reached',
  5: 'verification failed: bytes are not what they should be',
};

const byCode: Partial<Record<ErrorCode, ExitCode>> = {
  'request-invalid': 2,
  'config-invalid': 2,
  'peer-unreachable': 4,
  'peer-refused': 4,
  'shutting-down': 4,
  'timed-out': 4,
  'journal-corrupt': 5,
  'replica-mismatch': 5,
  internal: 1,
  'storage-io': 1,
  'storage-full': 1,
  'storage-not-found': 1,
  'protocol-error': 1,
  'protocol-version': 1,
  'route-unknown': 1,
};

/** Every expected failure that is not listed is a refusal. */
export function exitCodeOf(error: unknown): ExitCode {
  return isTidemarkError(error) ? (byCode[error.code] ?? exitCodes.refused) : exitCodes.failure;
}
