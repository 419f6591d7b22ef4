/** What the parts of a simulated cluster see of each other. */
import type { SourceLink } from '../../agent/src/link/link.js';
import type { TargetGroup } from '../../agent/src/target/group.js';
import type { Checkpoint } from '../../agent/src/target/manifest-records.js';
import type { GroupModel } from './model.js';
import type { SimDiskSpec, SourceHost } from './source-host.js';
import type { TargetHost } from './target-host.js';
import type { SimWorld } from './world/sim-world.js';

export const counterNames = [
  'writes',
  'faults',
  'checkpointsVerified',
  'definitionsFound',
  'promotions',
  'compactions',
  'pinnedViews',
  'syncs',
  'deltaSyncs',
  'bitmapSyncs',
  'retreats',
  'folds',
  'failovers',
  'rollbacks',
  'commits',
  'barriers',
  'poisonings',
  'zombies',
  'bitFlips',
  'scrubPasses',
  'chunksRepaired',
  'disksAdded',
  'disksGrown',
  'disksRemoved',
  'disksForgotten',
  'oldDiskSets',
  'disksSeeded',
] as const;
export type CounterName = (typeof counterNames)[number];

export interface SeedResult {
  readonly seed: number;
  readonly failure: string | undefined;
  /** Equal in two runs of a seed, or they were not the same run. */
  readonly fingerprint: number;
  readonly counts: Readonly<Record<CounterName, number>>;
  readonly virtualMs: number;
  /** What happened, a line each. */
  readonly log: readonly string[];
}

export interface ClusterView {
  readonly world: SimWorld;
  readonly model: GroupModel;
  readonly sources: SourceHost[];
  readonly targets: TargetHost[];
  readonly counts: Record<CounterName, number>;
  /** Hosts that present another host's certificate. */
  readonly aliases: Map<string, string>;
  /** Set by what must never happen. */
  broken: string | undefined;
  readonly checks: ChecksView;
  readonly actions: ActionsView;
  note(text: string): void;
  /** Throws what is broken. */
  raise(): void;
  /** A disk that the agent's guests may get: new, in the model from now on. */
  diskSpec(name: string, agent: string): SimDiskSpec;
  makeSource(host: string, agent: string, specs: readonly SimDiskSpec[], targets: readonly string[]): SourceHost;
}

export interface ChecksView {
  /** Bits were turned: what is read may be refused from now on. */
  damaged: boolean;
  /** They were turned in the replica, from which the scrub must tell them. */
  bitsTurned: boolean;
  verify(target: TargetHost, group: TargetGroup, checkpoint: Checkpoint): Promise<boolean>;
  tagged(link: SourceLink, id: string, sequence: number): void;
  diskForgotten(host: string): void;
  fence(target: TargetHost): void;
  unfence(target: TargetHost): void;
}

export interface ActionsView {
  forgetDisks(target: TargetHost): Promise<void>;
  release(): Promise<void>;
  final(): Promise<void>;
}
