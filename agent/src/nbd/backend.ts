/** What the NBD server serves: a capture export, or a view. The server has checked every argument before a call. */
import type { Payload } from './payload.js';

/** One run of base:allocation: `hole` reads as zeros and is not allocated, `zero` reads as zeros. */
export interface Extent {
  readonly lengthBytes: number;
  readonly hole: boolean;
  readonly zero: boolean;
}

/** A backend's failure becomes the NBD error of the same meaning (EIO when not listed). */
export type NbdErrorName = 'EPERM' | 'EIO' | 'ENOMEM' | 'EINVAL' | 'ENOSPC' | 'EOVERFLOW' | 'ENOTSUP' | 'ESHUTDOWN';

export class NbdError extends Error {
  override readonly name = 'NbdError';
  readonly code: NbdErrorName;
  constructor(code: NbdErrorName, message: string) {
    super(message);
    this.code = code;
  }
}

/**
 * Rules: offset + length <= sizeBytes, length > 0, both multiples of `minimumBlockBytes`.
 * A method that returns `undefined` (not a promise) is complete: the server answers in the same turn. Requests of all
 * connections may run concurrently; a completed `flush` covers every write completed before it was called, on any
 * connection (so NBD_FLAG_CAN_MULTI_CONN is announced).
 */
export interface ExportBackend {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  /** Set: an agent that hangs must not hold this export's clients (they are given to the guard). Their group's name. */
  readonly guardGroup?: string;
  /** Fills `target` (its length is the request's) and resolves. */
  read(target: Uint8Array, offsetBytes: number): Promise<void> | undefined;
  /** The payload's bytes may be kept after the return only if `payload.retain()` was called before it. */
  write(offsetBytes: number, payload: Payload, fua: boolean): Promise<void> | undefined;
  /** Makes the range read as zeros. `mayTrim` false: keep it allocated. */
  zero(offsetBytes: number, lengthBytes: number, mayTrim: boolean, fua: boolean): Promise<void> | undefined;
  trim(offsetBytes: number, lengthBytes: number, fua: boolean): Promise<void> | undefined;
  flush(): Promise<void> | undefined;
  /** Runs that cover the range from its start, in order, at most `countMax`; the last may end before the range does. */
  extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]>;
  /** A client came / went (for view-busy, attach states). */
  connected?(): void;
  disconnected?(): void;
}
