/** A group at the target: opens what is on disk, admits sources, and holds the parts together. */
import type { CheckpointKind } from '../block/record.js';
import type { Clock, Timer } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import { isPlanted } from '../core/planted.js';
import type { Random } from '../core/random.js';
import { RecordLog } from '../core/record-log.js';
import type { Storage } from '../core/storage.js';
import { checkpointId } from '../core/ids.js';
import { keyCheckOf } from '../journal/encryption.js';
import { openJournal } from '../journal/journal.js';
import type { JournalCut } from '../journal/types.js';
import { protocolVersion, type Ack, type Hello, type Verdict, type Welcome } from '../stream/messages.js';
import { checkEpoch } from './admission.js';
import { BarrierCoordinator } from './barrier.js';
import { listCheckpoints } from './checkpoints.js';
import type { GroupContext } from './context.js';
import { DefinitionStore } from './definitions.js';
import type { DeltaSource } from './delta.js';
import { DiskChanges } from './disk-changes.js';
import { disksKept, disksPast } from './disk-set.js';
import { Ingest, type DiskChangeHandler } from './ingest.js';
import type { GroupMachines } from './machines.js';
import { prepareMove } from './move.js';
import type { Checkpoint } from './manifest-records.js';
import { Manifest, type ManifestState } from './manifest.js';
import { Operations, type OperationPlan } from './operations.js';
import { ReplicaSet } from './replica-set.js';
import { Seeding } from './seeding.js';
import type { Reversal } from './reversal.js';
import type { SourcePeers } from './source-peers.js';
import type { SessionGroup, TargetSession } from './session.js';
import type { TransitionHost } from './transition-host.js';
import { transitionPlans } from './transitions.js';
import { groupSettingsSchema, type GroupSettings } from './settings.js';
import { Upkeep } from './upkeep.js';
import { ViewRegistry, type ViewListener } from './views.js';

export interface GroupDeclaration {
  readonly name: string;
  readonly streams: readonly string[];
  readonly disks: readonly {
    readonly name: string;
    readonly sizeBytes: number;
    readonly stream: string;
    /** Raw file on this host, not larger than the disk, that its replica is made from. */
    readonly seed?: string | undefined;
  }[];
  readonly settings: Partial<GroupSettings>;
  /** The group goes on from another's history (a reversal): its epoch, above which this one begins. */
  readonly parent?: { readonly epoch: number; readonly branch: string } | undefined;
}

export interface GroupOptions {
  readonly storage: Storage;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
  readonly directory: string;
  readonly key?: Uint8Array | undefined;
  readonly views: ViewListener;
  /** The group can say nothing durable any more; the owner closes it and opens it again. */
  readonly onFailed: (error: Error) => void;
  /** The source agents' control APIs; left out: no move. */
  readonly sources?: SourcePeers;
  /** Left out: no reversal. */
  readonly reversal?: Reversal | undefined;
  /** How the group's VMs come back; left out: disks only. */
  readonly machines?: (group: TargetGroup) => GroupMachines;
  /** Operations besides the transitions (export, verify, …). */
  readonly plans?: (group: TargetGroup) => ReadonlyMap<string, OperationPlan>;
}

/** Blocks in memory before the connections stop being read. */
const ingestBytesMax = 32 * 1024 * 1024;
const barrierTimeoutMs = 2000;

export class TargetGroup implements SessionGroup {
  readonly ingest: Ingest;
  readonly barrier: BarrierCoordinator;
  readonly delta: DeltaSource;
  readonly views: ViewRegistry;
  readonly operations: Operations;
  readonly upkeep: Upkeep;
  readonly disks: DiskChanges;
  readonly seeding: Seeding;
  readonly machines: GroupMachines | undefined;
  private readonly sessions = new Map<number, TargetSession>();
  private barrierTimer: Timer | undefined;
  private upkeepTimer: Timer | undefined;
  private upkeepRun: Promise<void> = Promise.resolve();
  /** How far the source's clock is behind ours, estimated from its pings; 0 until the first. */
  private sourceClockBehindMs = 0;
  private readonly durableWatchers = new Set<() => void>();
  private readonly host: TransitionHost;
  private readonly closing = new AbortController();
  private closed = false;
  private failed = false;
  private cached:
    | (Pick<ManifestState, 'diskChanges' | 'verdicts'> & { readonly key: string; readonly list: Checkpoint[] })
    | undefined;

  private constructor(
    readonly context: GroupContext,
    viewListener: ViewListener,
    machines: GroupOptions['machines'],
    plans: (group: TargetGroup) => ReadonlyMap<string, OperationPlan>,
    private readonly onFailed: (error: Error) => void,
    sources: SourcePeers | undefined,
    reversal: Reversal | undefined,
  ) {
    const { manifest, journal, replicas, clock } = context;
    this.seeding = new Seeding(context);
    const disks = new DiskChanges(context, (streams) => {
      for (const stream of streams)
        this.sessions.get(stream)?.close('shutting-down', 'A disk that another source had is free.');
    });
    this.disks = disks;
    const changeDisk: DiskChangeHandler = (...change) => disks.apply(...change);
    this.ingest = new Ingest(manifest, journal, replicas, changeDisk, () => this.balance());
    this.barrier = new BarrierCoordinator(clock);
    this.views = new ViewRegistry(context, viewListener);
    this.upkeep = new Upkeep(
      context,
      () => disks.sweep(),
      (chunks) => {
        const disk = manifest.state.disks.get(chunks.disk);
        return disk !== undefined && this.sessions.get(disk.stream)?.askRepair(chunks) === true;
      },
    );
    this.machines = machines?.(this);
    this.host = {
      views: this.views,
      machines: this.machines,
      fenceSources: (reason: string) => this.fence(reason),
      sourceConnected: () => this.sessions.size > 0,
      sourcesAway: () =>
        [...manifest.state.streams].flatMap(([stream, name]) => (this.sessions.has(stream) ? [] : [name])),
      sources,
      reversal,
      takeBarrier: (label: string) => this.takeBarrier('tagged', label),
      waitForCheckpoint: (id: string, timeoutMs: number) => this.waitForCheckpoint(id, timeoutMs),
      closing: this.closing.signal,
    };
    this.operations = new Operations(
      context,
      new Map([...transitionPlans(this.host), ...(this.machines?.plans ?? []), ...plans(this)]),
      context.lock,
    );
    this.delta = {
      newestCut: () => this.newestCut(),
      diskSizeBytes: (disk) => manifest.state.disks.get(disk)?.sizeBytes,
      replicaDigests: (disk, firstChunk, count) => replicas.digests(disk, firstChunk, count),
      readAt: (cut, disk, target, offsetBytes) => replicas.readAt(cut, disk, target, offsetBytes),
    };
    manifest.onFailed = (error) => this.fail(error);
    journal.onDurable(() => this.onDurable());
    journal.onPoisoned((error) => this.onPoisoned(error));
  }

  /** Makes a new group's directory and opens it. `group-exists` when there is one. */
  static async create(options: GroupOptions, declaration: GroupDeclaration): Promise<TargetGroup> {
    const { storage, directory, clock, random } = options;
    await storage.makeDirectory(directory);
    const { log, records } = await RecordLog.open(storage, directory, 'manifest');
    const { manifest } = Manifest.read(log, records, directory);
    if (manifest.state.group !== undefined) {
      await log.close();
      throw new TidemarkError('group-exists', `There is a group in ${directory} already.`, { path: directory });
    }
    // Left by a creation that a crash cut short: the record that makes it a group is the last.
    if (records.length > 0) await log.rewrite([]);
    const declaredDisks = declaration.disks.map(({ name }) => name);
    const settings = groupSettingsSchema.parse({ declaredDisks, ...declaration.settings });
    const streams = new Map(declaration.streams.map((name, index) => [name, index]));
    const uuid = Buffer.from(random.bytes(16)).toString('hex');
    const { parent } = declaration;
    const first = [
      { type: 'settings' as const, settings: { ...settings } },
      ...declaration.streams.map((name, index) => ({ type: 'stream' as const, index, name })),
      ...declaration.disks.map((disk, index) => {
        const stream = streams.get(disk.stream);
        if (stream === undefined)
          throw new TidemarkError('request-invalid', `No stream ${disk.stream}.`, { path: `disks[${index}].stream` });
        const { name, sizeBytes, seed } = disk;
        const record = { type: 'disk' as const, index, name, sizeBytes, stream, removed: false };
        return seed === undefined ? record : { ...record, seed };
      }),
      {
        type: 'epoch' as const,
        epoch: (parent?.epoch ?? 0) + 1,
        branch: Buffer.from(random.bytes(8)).toString('hex'),
        ...(parent === undefined ? {} : { parentBranch: parent.branch }),
        holder: 'source' as const,
        reason: 'created',
        wallMs: clock.wallMs(),
      },
      // Last: a group that a crash cut short while it was created is not one.
      {
        type: 'group' as const,
        name: declaration.name,
        formatVersion: 1 as const,
        uuid,
        createdMs: clock.wallMs(),
        ...(options.key === undefined ? {} : { keyCheck: keyCheckOf(options.key, uuid) }),
      },
    ];
    await Promise.all(first.map((record) => manifest.append(record)));
    await manifest.close();
    return TargetGroup.open(options);
  }

  /** Opens a group from its directory alone: recovery, unfinished promotion, views, operations. */
  static async open(options: GroupOptions): Promise<TargetGroup> {
    const { storage, directory, clock, random, events, key } = options;
    const { log, records } = await RecordLog.open(storage, directory, 'manifest');
    const { manifest, records: parsed } = Manifest.read(log, records, directory);
    const { group } = manifest.state;
    if (group === undefined) {
      await log.close();
      throw new TidemarkError('group-unknown', `${directory} holds no complete group.`, { path: directory });
    }
    const settings = groupSettingsSchema.parse(manifest.state.settings);
    const journal = await openJournal({
      storage,
      clock,
      random,
      directory,
      groupUuid: group.uuid,
      key,
      manifest,
      records: parsed,
      segmentBytes: settings.segmentBytes,
    });
    const replicas = await ReplicaSet.open({
      storage,
      clock,
      random,
      directory,
      key,
      journal,
      disks: disksKept(manifest.state),
      disksPast: disksPast(manifest.state),
    });
    const context: GroupContext = {
      name: group.name,
      directory,
      storage,
      clock,
      random,
      events,
      manifest,
      journal,
      replicas,
      settings,
      key,
      definitions: new DefinitionStore({ storage, clock, random, directory, key }),
      lock: new Mutex(),
      checkpoints: () => opened.checkpoints(),
      pinned: () => opened.pinned(),
      sourceNowMs: () => clock.wallMs() - opened.sourceClockBehindMs,
    };
    const opened = new TargetGroup(
      context,
      options.views,
      options.machines,
      options.plans ?? (() => new Map()),
      options.onFailed,
      options.sources,
      options.reversal,
    );
    await opened.upkeep.resumePromotion();
    await opened.views.reopen();
    await opened.operations.resume();
    opened.seeding.start();
    opened.scheduleUpkeep();
    opened.scheduleBarrier();
    opened.machines?.start();
    return opened;
  }

  get name(): string {
    return this.context.name;
  }

  get definitions(): DefinitionStore {
    return this.context.definitions;
  }

  get connectedStreams(): number[] {
    return [...this.sessions.keys()];
  }

  sessionList(): TargetSession[] {
    return [...this.sessions.values()];
  }

  /** Recoverable checkpoints, oldest first. */
  checkpoints(): Checkpoint[] {
    const { manifest, journal } = this.context;
    const marks = journal.marks();
    const base = manifest.state.promoting ?? manifest.state.promoted;
    const { barriers, diskChanges, verdicts } = manifest.state;
    // Marks only come at the end and only go before it, so their ends and count tell whether they are the same.
    const key = [marks.length, marks[0]?.mark.id, marks.at(-1)?.mark.id, base?.checkpoint.id, barriers.size].join(' ');
    const { cached } = this;
    if (cached?.key === key && cached.diskChanges === diskChanges && cached.verdicts === verdicts) return cached.list;
    const list = listCheckpoints(marks, manifest.state);
    this.cached = { key, diskChanges, verdicts, list };
    return list;
  }

  pinned(): ReadonlySet<string> {
    const { pins } = this.context.manifest.state;
    return new Set([...this.views.pinned(), ...[...pins.values()].map((pin) => pin.checkpoint)]);
  }

  /** Milliseconds since the source time of the newest durable complete checkpoint; undefined without one. */
  rpoMs(): number | undefined {
    const newest = this.checkpoints().findLast((checkpoint) => checkpoint.complete);
    return newest === undefined ? undefined : Math.max(0, this.context.sourceNowMs() - newest.sourceTimeMs);
  }

  async admit(hello: Hello, session: TargetSession): Promise<Welcome> {
    try {
      return await this.welcome(hello, session);
    } catch (error) {
      this.left(session);
      throw error;
    }
  }

  private async welcome(hello: Hello, session: TargetSession): Promise<Welcome> {
    const { manifest, journal, settings, name } = this.context;
    const { state } = manifest;
    if (this.closed || this.failed) throw new TidemarkError('shutting-down', 'The group is being closed.');
    if (hello.protocol !== protocolVersion)
      throw new TidemarkError('protocol-version', `Protocol ${hello.protocol} is not ${protocolVersion}.`);
    const stream = [...state.streams].find(([, streamName]) => streamName === hello.stream)?.[0];
    if (stream === undefined) throw new TidemarkError('group-unknown', `Group ${name} has no stream ${hello.stream}.`);
    checkEpoch(name, hello, state);
    this.seeding.refuseSource();
    // One source of a stream at a time: the newest connection counts.
    this.sessions.get(stream)?.close('shutting-down', 'A newer connection of this stream has come.');
    this.sessions.set(stream, session);
    await this.ingest.drained();
    await journal.flush().catch(() => undefined);
    // Parts of a range whose end did not arrive: the source sends the range again, maybe folded otherwise.
    journal.abandon(stream);
    const resumed = await this.incarnationFor(stream, hello);
    checkEpoch(name, hello, state);
    if (this.sessions.get(stream) !== session)
      throw new TidemarkError('shutting-down', 'A newer connection of this stream has come.');
    const incarnation = state.incarnations.get(stream)?.incarnation ?? 0;
    const told = await this.disks.admit(stream, hello, incarnation, resumed);
    checkEpoch(name, hello, state);
    if (this.sessions.get(stream) !== session)
      throw new TidemarkError('shutting-down', 'A newer connection of this stream has come.');
    const epoch = state.epochs.at(-1);
    if (epoch === undefined) throw new TidemarkError('illegal-state', `Group ${name} has no epoch.`);
    this.context.events.emit('source-connected', { group: name, stream: hello.stream, incarnation, resumed });
    return {
      protocol: protocolVersion,
      stream,
      epoch: epoch.epoch,
      branch: epoch.branch,
      incarnation,
      durableSequence: this.progress(stream, incarnation).durableSequence,
      streamCount: state.streams.size,
      checkpointIntervalMs: settings.checkpointIntervalMs,
      ...told,
      ...(resumed ? {} : this.heldBefore(stream, incarnation)),
      wallMs: this.context.clock.wallMs(),
    };
  }

  /** Nothing when the journal was begun anew: what the replica alone holds proves no position. */
  private heldBefore(stream: number, incarnation: number): Pick<Welcome, 'previous'> {
    const { journal } = this.context;
    const durable = journal.durable[stream];
    if (durable === undefined || durable.incarnation === 0 || durable.incarnation >= incarnation) return {};
    if (journal.usage.recordCount === 0) return {};
    return { previous: { incarnation: durable.incarnation, durableSequence: durable.sequence } };
  }

  progress(
    stream: number,
    incarnation: number,
  ): Pick<Ack, 'durableSequence' | 'receivedSequence' | 'state' | 'reason'> {
    const { journal } = this.context;
    const durable = journal.durable[stream];
    const received = journal.received[stream];
    const paused = this.upkeep.mustPause;
    return {
      durableSequence: durable?.incarnation === incarnation ? durable.sequence : 0,
      receivedSequence: received?.incarnation === incarnation ? received.sequence : 0,
      state: paused ? 'paused' : 'ok',
      ...(paused ? { reason: 'journal-full' } : {}),
    };
  }

  left(session: TargetSession): void {
    for (const [stream, known] of this.sessions) {
      if (known !== session) continue;
      this.sessions.delete(stream);
      this.barrier.lost(stream);
      this.context.events.emit('source-disconnected', { group: this.name, stream });
    }
  }

  async keepVerdict(stream: number, { checkpoint, proven, attributes }: Verdict): Promise<void> {
    const { manifest, events } = this.context;
    if (manifest.state.verdicts.has(checkpoint)) return;
    await manifest.append({ type: 'verdict', checkpoint, stream, proven, attributes });
    events.emit('checkpoint-verdict', { group: this.name, checkpoint, proven });
    for (const look of [...this.durableWatchers]) look();
  }

  observeSourceClock(behindMs: number): void {
    this.sourceClockBehindMs = behindMs;
  }

  /** A checkpoint over all streams now; only in a group of several. One of kind `application` needs a verdict of `coordinatorStream`. */
  async takeBarrier(kind: CheckpointKind, label?: string): Promise<Checkpoint['id']> {
    const { context } = this;
    const streams = [...context.manifest.state.streams.keys()];
    const participants = streams.map((stream) => this.sessions.get(stream));
    if (participants.some((participant) => participant === undefined)) {
      throw new TidemarkError('barrier-broken', `Not every source agent of ${this.name} is connected.`);
    }
    const id = checkpointId(context.random, context.clock.wallMs());
    const barrier = Buffer.from(context.random.bytes(8)).toString('hex');
    const request = {
      barrier,
      checkpoint: { id, kind, ...(label === undefined ? {} : { label }) },
      holdMsMax: context.settings.holdMsMax,
    };
    const vector = await this.barrier.run(request, participants as TargetSession[], barrierTimeoutMs);
    await context.manifest.append({ type: 'barrier', checkpoint: id, barrier, vector: { ...vector } });
    return id;
  }

  /** Resolves when the checkpoint can be recovered; rejects with `barrier-broken` after `timeoutMs`. */
  waitForCheckpoint(id: string, timeoutMs: number): Promise<Checkpoint> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        const found = this.checkpoints().find((checkpoint) => checkpoint.id === id);
        if (found === undefined) return;
        this.durableWatchers.delete(look);
        timer.cancel();
        resolve(found);
      };
      const timer = this.context.clock.after(timeoutMs, () => {
        this.durableWatchers.delete(look);
        reject(
          new TidemarkError('barrier-broken', `Checkpoint ${id} did not become durable in ${timeoutMs / 1000} s.`),
        );
      });
      this.durableWatchers.add(look);
      look();
    });
  }

  /** Throws what a move would be refused with now. */
  async checkMove(): Promise<void> {
    await prepareMove(this.host, this.context);
  }

  /** Durable when it returns; in force from then on. */
  async changeSettings(settings: GroupSettings): Promise<void> {
    await this.context.manifest.append({ type: 'settings', settings: { ...settings } });
    Object.assign(this.context.settings, settings);
    this.context.events.emit('settings-changed', { group: this.name, policyRevision: settings.policyRevision });
  }

  /** Gives up a disk that its source does not send; earlier checkpoints keep it. Throws `disk-unknown`, `illegal-state`. */
  async forgetDisk(name: string): Promise<void> {
    const disk = [...this.context.manifest.state.disks.values()].find((each) => each.name === name);
    await this.disks.forget(name);
    // The source asks again: it may have a disk of that name which was refused because of this one.
    if (disk !== undefined) this.sessions.get(disk.stream)?.close('shutting-down', 'The disks of the group changed.');
  }

  /** Drains what is queued, stops timers, closes files. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.closing.abort(new TidemarkError('shutting-down', 'The group is being closed.'));
    this.barrierTimer?.cancel();
    this.upkeepTimer?.cancel();
    await this.machines?.stop();
    await this.seeding.stop();
    for (const session of [...this.sessions.values()]) session.close('shutting-down', 'The target agent is stopping.');
    await this.ingest.drained();
    await this.upkeepRun;
    await this.context.journal.flush().catch(() => undefined);
    await this.views.closeAll();
    await this.context.replicas.close();
    await this.context.journal.close();
    await this.context.manifest.close();
  }

  /** The same start (nonce) keeps its incarnation; a new one gets the next, durable before its first block. */
  private async incarnationFor(stream: number, hello: Hello): Promise<boolean> {
    const { manifest, journal, name } = this.context;
    const known = manifest.state.incarnations.get(stream);
    if (hello.incarnation !== 0 || known?.nonce === hello.nonce) {
      if (isPlanted('stale-incarnation-accepted')) return true;
      if (hello.incarnation > (known?.incarnation ?? 0)) {
        throw new TidemarkError(
          'durable-regression',
          `${name} here knows ${known?.incarnation ?? 0} starts of ${hello.stream}, which is in number ${hello.incarnation}: history was lost.`,
        );
      }
      if (known?.nonce !== hello.nonce || (hello.incarnation !== 0 && hello.incarnation !== known.incarnation)) {
        throw new TidemarkError(
          'stale-incarnation',
          `Incarnation ${hello.incarnation} of ${hello.stream} is not the newest start (${known?.incarnation ?? 0}) of ${name}.`,
        );
      }
      return hello.incarnation !== 0;
    }
    const nothingToKeep = !this.checkpoints().some((checkpoint) => checkpoint.complete);
    if (nothingToKeep && journal.usage.recordCount > 0 && manifest.state.streams.size === 1) await journal.dropAll();
    const epoch = manifest.state.epochs.at(-1)?.epoch ?? 0;
    await manifest.append({
      type: 'incarnation',
      stream,
      incarnation: (known?.incarnation ?? 0) + 1,
      nonce: hello.nonce,
      epoch,
    });
    return false;
  }

  private async newestCut(): Promise<JournalCut> {
    await this.context.journal.flush();
    return this.context.journal.cut(this.context.journal.durable);
  }

  private onDurable(): void {
    for (const session of this.sessions.values()) session.sendAck();
    for (const look of [...this.durableWatchers]) look();
    this.balance();
  }

  /** Nothing durable can be said any more: sources are turned away, the owner opens the group again. */
  private fail(error: Error): void {
    if (this.closed || this.failed) return;
    this.failed = true;
    this.context.events.emit('group-failed', { group: this.name, error: error.message });
    for (const session of [...this.sessions.values()]) session.close('storage-io', 'The group must be opened again.');
    this.onFailed(error);
  }

  private onPoisoned(error: Error): void {
    if (this.context.journal.failure !== undefined) {
      this.fail(error);
      return;
    }
    this.context.events.emit('journal-poisoned', { group: this.name, error: error.message });
    for (const session of [...this.sessions.values()])
      session.close('storage-io', 'The journal could not be written; send again.');
  }

  private balance(): void {
    const waiting = this.ingest.queuedBytes + this.context.journal.pendingBytes;
    const paused = this.upkeep.mustPause || waiting > ingestBytesMax;
    for (const session of this.sessions.values()) session.setPaused(paused);
  }

  private fence(reason: string): void {
    const epoch = this.context.manifest.state.epochs.at(-1);
    if (epoch === undefined) return;
    for (const session of [...this.sessions.values()]) session.fence(epoch.epoch, epoch.branch, reason);
  }

  private scheduleUpkeep(): void {
    if (this.closed) return;
    this.upkeepTimer = this.context.clock.after(this.context.settings.upkeepIntervalMs, () => {
      this.upkeepRun = this.views
        .expire(this.context.settings.rollbackKeepHours)
        .then(() => this.upkeep.round())
        .catch((error: unknown) => {
          if (!isTidemarkError(error)) throw error;
          this.context.events.emit('upkeep-failed', { group: this.name, code: error.code, error: error.message });
        })
        .then(() => {
          this.balance();
          this.scheduleUpkeep();
        });
    });
  }

  private scheduleBarrier(): void {
    const { context } = this;
    if (this.closed || context.manifest.state.streams.size < 2) return;
    this.barrierTimer = context.clock.after(context.settings.checkpointIntervalMs, () => {
      const all = [...context.manifest.state.streams.keys()].every((stream) => this.sessions.has(stream));
      if (all && !this.barrier.busy) {
        void this.takeBarrier('crash').catch((error: unknown) => {
          if (!isTidemarkError(error)) throw error;
          context.events.emit('barrier-broken', { group: this.name, error: error.message });
        });
      }
      this.scheduleBarrier();
    });
  }
}
