/** The open views of a group: each is a durable manifest record, which is also the pin of its checkpoint. */
import { TidemarkError } from '../core/errors.js';
import { copyDisk, hashDisk, type ProgressHandler } from '../view/materialise.js';
import type { ViewDisk } from '../view/view-disk.js';
import { View } from '../view/view.js';
import { resolveCheckpoint, type CheckpointSelector } from './checkpoints.js';
import type { GroupContext } from './context.js';
import { disksAt } from './disk-set.js';
import type { Checkpoint, ManifestRecord } from './manifest-records.js';

export type ViewRecord = Extract<ManifestRecord, { type: 'view' }>;

export interface ViewSpec {
  readonly id: string;
  readonly at: CheckpointSelector;
  readonly purpose: ViewRecord['purpose'];
  readonly scratchLimitBytes: number;
  readonly label?: string;
}

export interface OpenView {
  readonly record: ViewRecord;
  readonly checkpoint: Checkpoint;
  readonly view: View;
  /** NBD backends by disk name, of the checkpoint's moment; disks that it misses are not there. */
  readonly disks: ReadonlyMap<string, ViewDisk>;
  /** Wall time of this opening, milliseconds. */
  readonly openedMs: number;
}

/** Told when a view's disks come and go, so that they are exported. */
export interface ViewListener {
  opened(open: OpenView): void;
  /** Must have dropped every client when it resolves. */
  closing(open: OpenView): Promise<void>;
  /** NBD clients of the view at this moment. */
  clientCount(open: OpenView): number;
}

export class ViewRegistry {
  private readonly open_ = new Map<string, OpenView>();

  constructor(
    private readonly context: GroupContext,
    private readonly listener: ViewListener,
  ) {}

  list(): OpenView[] {
    return [...this.open_.values()];
  }

  get(id: string): OpenView {
    const found = this.open_.get(id);
    if (found === undefined)
      throw new TidemarkError('view-unknown', `Group ${this.context.name} has no open view ${id}.`);
    return found;
  }

  /** Ids of the checkpoints that views, kept ones included, need. */
  pinned(): string[] {
    return [...this.context.manifest.state.views.values()].map((view) => view.checkpoint);
  }

  /** Idempotent by id; an existing one must name the same checkpoint. */
  async open(spec: ViewSpec): Promise<OpenView> {
    const { context } = this;
    const opened = await context.lock.run(async () => {
      const known = context.manifest.state.views.get(spec.id);
      if (known !== undefined) {
        if (known.purpose !== spec.purpose)
          throw new TidemarkError('operation-conflict', `View ${spec.id} exists as a ${known.purpose} view.`);
        return this.open_.get(spec.id) ?? (await this.start(known, this.checkpointOf(known)));
      }
      const checkpoint = resolveCheckpoint(context.checkpoints(), spec.at);
      const { id, purpose, scratchLimitBytes, label } = spec;
      const record: ViewRecord = {
        type: 'view',
        id,
        checkpoint: checkpoint.id,
        purpose,
        scratchLimitBytes,
        removed: false,
        ...(label === undefined ? {} : { label }),
      };
      await context.manifest.append(record);
      return this.start(record, checkpoint);
    });
    return opened;
  }

  /** Opens again what was open when the agent died; it serves the same bytes. */
  async reopen(): Promise<void> {
    await this.sweep();
    for (const record of [...this.context.manifest.state.views.values()]) {
      if (record.purpose !== 'named') await this.start(record, this.checkpointOf(record));
    }
  }

  refuseBusy(id: string): void {
    const open = this.open_.get(id);
    const count = open === undefined ? 0 : this.listener.clientCount(open);
    if (count > 0) throw new TidemarkError('view-busy', `View ${id} has ${count} connected clients.`);
  }

  /** Drops the clients, removes the scratch; an unknown view is not an error. */
  async close(id: string): Promise<void> {
    const record = this.context.manifest.state.views.get(id);
    if (record === undefined) return;
    const open = await this.stop(id);
    await this.context.manifest.append({ ...record, removed: true });
    await open?.view.release();
    await this.context.storage.removeTree(this.directory(id));
  }

  /** Removes the named points that were kept for longer than they were to be; `keepHours`: of those that do not say. */
  async expire(keepHours: number): Promise<void> {
    const nowMs = this.context.clock.wallMs();
    for (const { id, purpose, keptMs, keptHours = keepHours } of [...this.context.manifest.state.views.values()]) {
      if (purpose === 'named' && keptMs !== undefined && nowMs - keptMs > keptHours * 3_600_000) {
        await this.close(id);
        this.context.events.emit('named-point-expired', { group: this.context.name, view: id });
      }
    }
  }

  /** Stops serving; scratch stays as a named point. */
  async keep(id: string, label: string, keptHours: number | undefined): Promise<void> {
    const record = this.context.manifest.state.views.get(id);
    if (record === undefined || record.purpose === 'named') return;
    const open = await this.stop(id);
    await open?.view.flush();
    const keptMs = this.context.clock.wallMs();
    const kept = { purpose: 'named' as const, label, keptMs, ...(keptHours === undefined ? {} : { keptHours }) };
    await this.context.manifest.append({ ...record, ...kept });
    await open?.view.release();
  }

  /** Copies every disk of the view, scratch included, to a file of its own, fsynced; returns their paths. */
  async materialise(id: string, onProgress: ProgressHandler, signal: AbortSignal): Promise<string[]> {
    const { context } = this;
    const open = this.get(id);
    await this.listener.closing(open);
    const directory = `${context.directory}/committed`;
    await context.storage.makeDirectory(directory);
    const files: string[] = [];
    for (const [index, name] of [...open.disks.keys()].entries()) {
      const path = `${directory}/${name}.raw`;
      // Left by a run that was cut short.
      await context.storage.remove(path);
      const progress: ProgressHandler = (done, total) => onProgress(index * total + done, open.disks.size * total);
      await this.copyDisk(id, name, path, progress, signal);
      files.push(path);
    }
    return files;
  }

  /** Copies one disk of an open view to a new sparse raw file. */
  async copyDisk(
    id: string,
    disk: string,
    path: string,
    onProgress: ProgressHandler,
    signal: AbortSignal,
  ): Promise<void> {
    await copyDisk({ source: this.diskOf(id, disk), storage: this.context.storage, path, onProgress, signal });
  }

  /** SHA-256 of one disk of an open view, as its clients see it. */
  hash(id: string, disk: string, signal: AbortSignal): Promise<string> {
    return hashDisk(this.diskOf(id, disk), { signal });
  }

  async closeAll(): Promise<void> {
    for (const open of this.open_.values()) {
      const { view } = open;
      await this.listener.closing(open);
      await view.flush().catch(() => undefined);
      await view.release();
    }
    this.open_.clear();
  }

  /** Removes the scratch of views that were closed when the agent died in the middle. */
  private async sweep(): Promise<void> {
    const { storage, directory, manifest } = this.context;
    const root = `${directory}/views`;
    await storage.makeDirectory(root);
    for (const id of await storage.list(root)) {
      if (!manifest.state.views.has(id)) await storage.removeTree(`${root}/${id}`);
    }
  }

  private diskOf(id: string, disk: string): ViewDisk {
    const found = this.get(id).disks.get(disk);
    if (found === undefined) throw new TidemarkError('disk-unknown', `View ${id} has no disk ${disk}.`);
    return found;
  }

  private checkpointOf(record: ViewRecord): Checkpoint {
    return resolveCheckpoint(this.context.checkpoints(), {
      by: 'id',
      checkpoint: record.checkpoint,
      allowIncomplete: true,
    });
  }

  private async start(record: ViewRecord, checkpoint: Checkpoint): Promise<OpenView> {
    const { context } = this;
    const directory = this.directory(record.id);
    await context.storage.makeDirectory(directory);
    const disks = disksAt(context.manifest.state, checkpoint.vector).filter(
      (disk) => !checkpoint.disksMissing.includes(disk.index),
    );
    const view = await View.open({
      storage: context.storage,
      directory,
      cut: await context.journal.cut(checkpoint.vector),
      replica: context.replicas.replica,
      disks,
      scratchLimitBytes: record.scratchLimitBytes,
      key: context.key,
      random: context.random,
    });
    const backends = new Map(disks.map((disk) => [disk.name, view.disk(disk.index)]));
    const open: OpenView = { record, checkpoint, view, disks: backends, openedMs: context.clock.wallMs() };
    this.open_.set(record.id, open);
    this.listener.opened(open);
    return open;
  }

  private async stop(id: string): Promise<OpenView | undefined> {
    const open = this.open_.get(id);
    if (open === undefined) return undefined;
    await this.listener.closing(open);
    this.open_.delete(id);
    return open;
  }

  private directory(id: string): string {
    return `${this.context.directory}/views/${id}`;
  }
}
