/**
 * Operations of source groups as they are now. A `sync` lives in memory alone: a source agent that restarts compares its
 * disks with the replica anyway, so a forgotten sync is a sync that was done. What else there is keeps its own records.
 */
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { toApiError } from '../service/error-schema.js';
import type { Operation, OperationQuery, OperationRequest } from '../service/operation-schemas.js';
import type { SourceHandle } from './source-side.js';

/** Ended ones above it are forgotten, oldest first. */
const countMax = 256;
const lookMs = 200;

export class SourceOperations {
  private readonly known = new Map<string, Operation>();
  private readonly watchers = new Set<() => void>();

  constructor(private readonly clock: Clock) {}

  list(query: OperationQuery): Operation[] {
    return [...this.known.values()].filter(({ group }) => query.group === undefined || query.group === group);
  }

  get(id: string): Operation | undefined {
    return this.known.get(id);
  }

  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  /** Compares the disks (default: all) with the replica and sends what differs; the same id is the same operation. */
  sync(id: string, source: SourceHandle, disks: readonly string[] | undefined, drivenBy: string): Operation {
    const known = this.known.get(id);
    const args = disks === undefined ? {} : { disks: [...disks] };
    if (known !== undefined) {
      if (known.group === source.group.name && JSON.stringify(known.arguments) === JSON.stringify(args)) return known;
      throw new TidemarkError('operation-conflict', `Operation ${id} was a sync with other arguments.`);
    }
    const names = source.group.disks.map(({ name }) => name);
    const unknown = disks?.find((name) => !names.includes(name));
    if (unknown !== undefined) {
      throw new TidemarkError('disk-unknown', `Group ${source.group.name} has no disk ${unknown}.`, {
        path: 'arguments.disks',
      });
    }
    const chosen = new Set(disks ?? names);
    for (const [index, { name }] of source.group.disks.entries()) if (chosen.has(name)) source.group.compare(index);
    const started: Operation = {
      id,
      kind: 'sync',
      group: source.group.name,
      arguments: args,
      state: 'running',
      step: 'reading',
      revision: 1,
      progress: null,
      startedMs: this.clock.wallMs(),
      finishedMs: null,
      drivenBy,
      result: null,
      error: null,
    };
    this.put(started);
    this.followUntilSynced(source, started, chosen);
    return started;
  }

  /**
   * Runs what is asked for, once for each id: a repeated request finds it. It lives in memory; what it does must be able to
   * go on when a later start is asked again.
   */
  follow(
    id: string,
    { kind, group, arguments: args }: OperationRequest,
    drivenBy: string,
    run: (progress: (doneBytes: number, totalBytes: number) => void) => Promise<Record<string, unknown>>,
  ): Operation {
    const known = this.known.get(id);
    if (known !== undefined && known.state !== 'failed') return known;
    const startedMs = this.clock.wallMs();
    let now: Operation = {
      ...{ id, kind, group, arguments: { ...args }, state: 'running', step: 'started', progress: null, drivenBy },
      ...{ revision: (known?.revision ?? 0) + 1, startedMs, finishedMs: null, result: null, error: null },
    };
    const change = (changes: Partial<Operation>): void => {
      now = { ...now, ...changes, revision: now.revision + 1 };
      this.put(now);
    };
    this.put(now);
    const finishedMs = (): number => this.clock.wallMs();
    run((doneBytes, totalBytes) =>
      change({ progress: { doneBytes, totalBytes, bytesPerSecond: 0, secondsLeft: null } }),
    ).then(
      (result) => change({ state: 'succeeded', step: 'done', progress: null, finishedMs: finishedMs(), result }),
      (error: unknown) => {
        if (!isTidemarkError(error)) throw error;
        change({ state: 'failed', progress: null, finishedMs: finishedMs(), error: toApiError(error) });
      },
    );
    return now;
  }

  private followUntilSynced(source: SourceHandle, operation: Operation, disks: ReadonlySet<string>): void {
    const { links } = source.group.status;
    const syncs = links.flatMap((link) => link.syncs).filter(({ disk }) => disks.has(disk));
    const doneBytes = syncs.reduce((sum, sync) => sum + sync.doneBytes, 0);
    const totalBytes = syncs.reduce((sum, sync) => sum + sync.totalBytes, 0);
    const bytesPerSecond = syncs.reduce((sum, sync) => sum + sync.bytesPerSecond, 0);
    const secondsLeft = bytesPerSecond > 0 ? (totalBytes - doneBytes) / bytesPerSecond : null;
    const revision = operation.revision + 1;
    const over = syncs.length === 0 || links.every(({ state }) => state === 'stopped');
    const next: Operation = over
      ? {
          ...operation,
          revision,
          state: 'succeeded',
          step: 'done',
          progress: null,
          finishedMs: this.clock.wallMs(),
          result: { disks: [...disks] },
        }
      : { ...operation, revision, progress: { doneBytes, totalBytes, bytesPerSecond, secondsLeft } };
    this.put(next);
    if (!over) this.clock.after(lookMs, () => this.followUntilSynced(source, next, disks));
  }

  /** Takes the operation as it is now; a later one of that id replaces it. */
  put(operation: Operation): void {
    this.known.set(operation.id, operation);
    for (const { id, state } of this.known.values()) {
      if (this.known.size <= countMax) break;
      if (state !== 'running') this.known.delete(id);
    }
    for (const watcher of [...this.watchers]) watcher();
  }
}
