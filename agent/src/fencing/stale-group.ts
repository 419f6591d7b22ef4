/** What fencing needs of a source group. */
import type { LinkStatus } from '../link/link-status.js';
import type { FencingPolicy } from './fence-record.js';

export interface StaleGroup {
  readonly name: string;
  readonly links: readonly LinkStatus[];
  /** Source time now, milliseconds. */
  readonly sourceTimeMs: number;
  readonly vms: readonly { readonly vm: string; readonly hypervisor: string }[];
}

export type FencePolicyOf = (group: string) => FencingPolicy;
