/** What an in-path export needs of the disk behind it; a BlockDevice has all of it. */
import type { BlockDevice } from '../nbd/block-device.js';

/** `minimumBlockBytes` left out: 1. */
export type UpstreamDisk = Pick<BlockDevice, 'sizeBytes' | 'read' | 'write' | 'zero' | 'flush' | 'extents'> &
  Partial<Pick<BlockDevice, 'minimumBlockBytes'>>;
