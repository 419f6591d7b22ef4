/** What failover, move, rollback and commit need of the group besides its context. */
import type { GroupMachines } from './machines.js';
import type { Checkpoint } from './manifest-records.js';
import type { Reversal } from './reversal.js';
import type { SourcePeers } from './source-peers.js';
import type { ViewRegistry } from './views.js';

export interface TransitionHost {
  /** Closes every session of the group, telling each the epoch now in force. */
  fenceSources(reason: string): void;
  readonly views: ViewRegistry;
  /** True while a source agent is connected. */
  sourceConnected(): boolean;
  /** Names of source agents that are not connected. */
  sourcesAway(): string[];
  /** Undefined: they cannot be asked (a group without an agent around it). */
  readonly sources: SourcePeers | undefined;
  /** Undefined: no reversal (a group without an agent around it). */
  readonly reversal: Reversal | undefined;
  /** A tagged checkpoint over several source agents, now; its id. */
  takeBarrier(label: string): Promise<string>;
  /** Rejects when the checkpoint is not there in time. */
  waitForCheckpoint(id: string, timeoutMs: number): Promise<Checkpoint>;
  /** Aborts when the group is closed: what is under way goes on when it is opened again. */
  readonly closing: AbortSignal;
  /** Undefined: this agent recovers disks alone. */
  readonly machines: GroupMachines | undefined;
}
