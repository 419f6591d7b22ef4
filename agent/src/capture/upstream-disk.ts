/** What an in-path export needs of the disk behind it (a BlockDevice is one). */
import type { Extent } from '../nbd/backend.js';

export interface UpstreamDisk {
  readonly sizeBytes: number;
  read(target: Uint8Array, offsetBytes: number): Promise<void>;
  write(source: Uint8Array, offsetBytes: number): Promise<void>;
  /** The range reads as zeros afterwards. `mayTrim`: it need not stay allocated. */
  zero(offsetBytes: number, lengthBytes: number, mayTrim: boolean): Promise<void>;
  flush(): Promise<void>;
  extents?(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]>;
}
