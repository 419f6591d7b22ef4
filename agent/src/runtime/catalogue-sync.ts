/** Keeps the catalogue (an index) equal to what the groups say; remakes a group's rows whenever it is not sure. */
import type { Catalogue } from '../control/catalogue/catalogue.js';
import { isTidemarkError } from '../core/errors.js';
import type { Checkpoint, CheckpointPage, CheckpointQuery } from '../service/checkpoint-schemas.js';
import { Mutex } from '../core/mutex.js';
import type { TargetGroup } from '../target/group.js';
import { operationView } from './operation-view.js';
import { targetCheckpoint } from './target-status.js';

interface Synced {
  position: number;
  seen: Fingerprint;
  readonly checkpoints: Map<string, string>;
  readonly operations: Map<string, string>;
}

/**
 * Positions count the changes since the agent started, so a database of another start is always remade. One that fails
 * (damaged, or replaced under the running agent) is opened anew, which remakes a damaged file, and filled again.
 */
export class CatalogueSync {
  private readonly synced = new Map<string, Synced>();
  private readonly lock = new Mutex();
  private catalogue: Catalogue;

  /** `exists`: the file has its name still. `boot`: random for each start of the agent. */
  constructor(
    private readonly open: () => Catalogue,
    private readonly exists: () => Promise<boolean>,
    private readonly boot: string,
  ) {
    this.catalogue = open();
  }

  /** Brings the rows of the group to what it says now. */
  update(group: TargetGroup): Promise<void> {
    return this.lock.run(() => this.again(() => this.bring(group)));
  }

  /** Remakes the group's rows from nothing; returns how many there are. */
  rebuild(group: TargetGroup): Promise<number> {
    return this.lock.run(() => this.again(() => this.remake(group, stateOf(group))));
  }

  /** One page of the group's checkpoints as they are now. */
  checkpoints(group: TargetGroup, query: CheckpointQuery): Promise<CheckpointPage> {
    return this.lock.run(() =>
      this.again(async () => {
        await this.bring(group);
        return this.catalogue.checkpoints(group.name, query);
      }),
    );
  }

  forget(name: string): Promise<void> {
    return this.lock.run(() => {
      this.synced.delete(name);
      return this.again(() => this.catalogue.removeGroup(name));
    });
  }

  close(): Promise<void> {
    return this.lock.run(() => this.catalogue.close());
  }

  private async again<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!isTidemarkError(error, 'storage-io')) throw error;
      await this.reopen();
      return work();
    }
  }

  private async reopen(): Promise<void> {
    await this.catalogue.close();
    this.synced.clear();
    this.catalogue = this.open();
  }

  private async bring(group: TargetGroup): Promise<void> {
    // Deleted under the running agent: what is written to it now would be gone at the next start.
    if (!(await this.exists())) await this.reopen();
    const known = this.synced.get(group.name);
    const seen = fingerprint(group);
    if (known !== undefined) {
      const same = known.seen.list === seen.list && known.seen.rest === seen.rest;
      if (same && (await this.isCurrent(group, known))) return;
    }
    const now = stateOf(group);
    if (known !== undefined && (await this.apply(group, known, now))) return;
    await this.remake(group, now);
  }

  private async apply(group: TargetGroup, known: Synced, now: GroupState): Promise<boolean> {
    const checkpoints = now.checkpoints.filter(
      (checkpoint) => known.checkpoints.get(checkpoint.id) !== JSON.stringify(checkpoint),
    );
    const ids = new Set(now.checkpoints.map(({ id }) => id));
    const checkpointsRemoved = [...known.checkpoints.keys()].filter((id) => !ids.has(id));
    const operations = now.operations.filter(
      (operation) => known.operations.get(operation.id) !== JSON.stringify(operation),
    );
    if (checkpoints.length + checkpointsRemoved.length + operations.length === 0) {
      known.seen = now.seen;
      return this.isCurrent(group, known);
    }
    const change = { checkpoints, checkpointsRemoved, operations };
    const after = known.position + 1;
    const done = await this.catalogue.put({
      group: group.name,
      generation: this.boot,
      before: known.position,
      after,
      ...change,
    });
    if (!done) return false;
    known.position = after;
    known.seen = now.seen;
    for (const checkpoint of checkpoints) known.checkpoints.set(checkpoint.id, JSON.stringify(checkpoint));
    for (const id of checkpointsRemoved) known.checkpoints.delete(id);
    for (const operation of operations) known.operations.set(operation.id, JSON.stringify(operation));
    return true;
  }

  private async isCurrent(group: TargetGroup, known: Synced): Promise<boolean> {
    const mark = await this.catalogue.mark(group.name);
    return mark?.generation === this.boot && mark.position === known.position;
  }

  private async remake(group: TargetGroup, now: GroupState): Promise<number> {
    const synced: Synced = {
      position: 1,
      seen: now.seen,
      checkpoints: new Map(now.checkpoints.map((checkpoint) => [checkpoint.id, JSON.stringify(checkpoint)])),
      operations: new Map(now.operations.map((operation) => [operation.id, JSON.stringify(operation)])),
    };
    const { checkpoints, operations } = now;
    await this.catalogue.rebuild({
      group: group.name,
      mark: { generation: this.boot, position: 1 },
      checkpoints,
      operations,
    });
    this.synced.set(group.name, synced);
    return now.checkpoints.length + now.operations.length;
  }
}

/** Tells, without walking thousands of checkpoints, that nothing has changed since. */
interface Fingerprint {
  /** The group gives the same list until its checkpoints change. */
  readonly list: unknown;
  readonly rest: string;
}

function fingerprint(group: TargetGroup): Fingerprint {
  const { pins, views, operations } = group.context.manifest.state;
  const last = [...operations.values()].map(({ id, step }) => `${id} ${step}`);
  const rest = JSON.stringify([[...pins.values()], [...views.values()].map(({ id, purpose }) => [id, purpose]), last]);
  return { list: group.checkpoints(), rest };
}

interface GroupState {
  readonly seen: Fingerprint;
  readonly checkpoints: Checkpoint[];
  readonly operations: ReturnType<typeof operationView>[];
}

function stateOf(group: TargetGroup): GroupState {
  return {
    seen: fingerprint(group),
    checkpoints: group.checkpoints().map((checkpoint) => targetCheckpoint(group, checkpoint)),
    operations: [...group.context.manifest.state.operations.values()].map((record) => operationView(group, record)),
  };
}
