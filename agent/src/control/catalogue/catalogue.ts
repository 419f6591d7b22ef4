/**
 * The catalogue: an index over checkpoints and operations, for listing without reading manifests. It is never the truth:
 * each group's manifest is. The database may be deleted, or restored old, at any moment with nothing lost.
 *
 * How an old or missing database is noticed. Every group has a `mark`: {generation, position}. `generation` is random,
 * made with the manifest (its uuid); `position` is the number of manifest records (or any number that only grows) that
 * the rows reflect, written in the same transaction as the rows. On start, and after adoption, the owner calls
 * `mark(group)` and compares: equal means current; anything else (older, newer, another generation, missing) means
 * `rebuild`. A put carries the position before and after it; when the database is not at `before` the put is refused
 * (answers false) and the owner rebuilds. So a gap cannot hide: not even when the file is replaced under a running agent.
 */
import type { Checkpoint, CheckpointPage, CheckpointQuery } from '../../service/checkpoint-schemas.js';
import type { Operation, OperationPage, OperationQuery } from '../../service/operation-schemas.js';

export interface Mark {
  readonly generation: string;
  readonly position: number;
}

/** One step of a group from mark to mark. */
export interface CatalogueChange {
  readonly group: string;
  readonly generation: string;
  readonly before: number;
  readonly after: number;
  readonly checkpoints?: readonly Checkpoint[];
  readonly checkpointsRemoved?: readonly string[];
  readonly operations?: readonly Operation[];
}

/** All that a group's manifest says, for a rebuild. */
export interface GroupTruth {
  readonly group: string;
  readonly mark: Mark;
  readonly checkpoints: Iterable<Checkpoint>;
  readonly operations: Iterable<Operation>;
}

export interface Catalogue {
  /** Undefined: nothing is known of the group. */
  mark(group: string): Promise<Mark | undefined>;
  /** Applies the change whole; false: the database is not at `before`, rebuild the group. */
  put(change: CatalogueChange): Promise<boolean>;
  /** Replaces all rows of the group in one transaction. */
  rebuild(truth: GroupTruth): Promise<void>;
  removeGroup(group: string): Promise<void>;
  checkpoints(group: string, query: CheckpointQuery): Promise<CheckpointPage>;
  checkpoint(group: string, id: string): Promise<Checkpoint | undefined>;
  operations(query: OperationQuery): Promise<OperationPage>;
  operation(id: string): Promise<Operation | undefined>;
  close(): Promise<void>;
}
