/** A disk that the agent reads and writes: the upstream of an in-path capture, the source of a sync. */
import type { Extent } from './backend.js';

/** Ranges lie in the device; memory given to `read` and `write` stays as it is until the promise settles. */
export interface BlockDevice {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Offsets and lengths are multiples of it. */
  readonly minimumBlockBytes: number;
  /** Fills `target` or throws. */
  read(target: Uint8Array, offsetBytes: number): Promise<void>;
  /** With `fua` durable when it resolves. */
  write(bytes: Uint8Array, offsetBytes: number, fua?: boolean): Promise<void>;
  /** Reads as zeros afterwards. */
  zero(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** A hint: what the range reads as afterwards is undefined. Who promises zeros calls `zero`. */
  trim(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Every write that had resolved before the call is durable. */
  flush(): Promise<void>;
  /** Runs from the start of the range, maybe not to its end. Absent when the device cannot tell. */
  extents?(offsetBytes: number, lengthBytes: number): Promise<Extent[]>;
  /** Idempotent. */
  close(): Promise<void>;
}
