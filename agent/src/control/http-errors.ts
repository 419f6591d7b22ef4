/** HTTP status of each error code. A code that is not listed is 503 when it may be retried, else 409. */
import { errorTable, type ErrorCode } from '../core/errors.js';

const statuses: Partial<Record<ErrorCode, number>> = {
  'request-invalid': 400,
  unauthorised: 401,
  forbidden: 403,
  'group-unknown': 404,
  'peer-unknown': 404,
  'disk-unknown': 404,
  'checkpoint-unknown': 404,
  'view-unknown': 404,
  'operation-unknown': 404,
  'route-unknown': 404,
  'checkpoint-expired': 410,
  'stale-epoch': 412,
  'stale-revision': 412,
  overloaded: 429,
  internal: 500,
  'journal-corrupt': 500,
  'replica-mismatch': 500,
  'peer-unreachable': 502,
  'peer-refused': 502,
  'storage-full': 507,
  'journal-full': 507,
  'scratch-full': 507,
  'timed-out': 504,
  'view-busy': 409,
  'operation-running': 409,
};

export function httpStatus(code: ErrorCode): number {
  return statuses[code] ?? (errorTable[code].retry ? 503 : 409);
}
