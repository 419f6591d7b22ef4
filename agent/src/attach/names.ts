/** Names that this agent gives in QEMU, so that it finds its own again after a restart and touches nothing else. */
import { createHash } from 'node:crypto';

export interface DiskNames {
  /** Prefix of everything of this disk. QEMU's node names have at most 31 characters. */
  readonly prefix: string;
  readonly job: string;
  /** Node of the NBD connection to the agent. */
  readonly targetNode: string;
  /** Node that the mirror puts above the disk. */
  readonly filterNode: string;
  /** Export that syncs read, and the one that a bitmap is read through. */
  readonly readerExport: string;
  readonly bitmapExport: string;
}

/** The same for an agent, group and disk, whatever starts anew. */
export function diskNames(agent: string, group: string, disk: string): DiskNames {
  const prefix = `tidemark-${createHash('sha256').update(`${agent}/${group}/${disk}`).digest('hex').slice(0, 12)}`;
  return {
    prefix,
    job: `${prefix}-m`,
    targetNode: `${prefix}-t`,
    filterNode: `${prefix}-f`,
    readerExport: `${prefix}-r`,
    bitmapExport: `${prefix}-b`,
  };
}
