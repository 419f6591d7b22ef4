/** What must hold at every moment, and at the end. */
import { isTidemarkError } from '../../agent/src/core/errors.js';
import type { SourceLink } from '../../agent/src/link/link.js';
import { comparePositions, type Vector } from '../../agent/src/journal/position.js';
import type { TargetGroup } from '../../agent/src/target/group.js';
import type { Checkpoint } from '../../agent/src/target/manifest-records.js';
import { disksAt } from '../../agent/src/target/disk-set.js';
import { checkpointsToKeep } from '../../agent/src/target/retention.js';
import { definitionsOf } from '../../agent/src/target/definitions.js';
import { retentionOf } from '../../agent/src/target/settings.js';
import type { ClusterView } from './cluster-view.js';
import { imagesOf, type TargetHost } from './target-host.js';

interface Seen {
  readonly atMs: number;
  readonly list: readonly Checkpoint[];
  readonly kept: ReadonlySet<string>;
  readonly pinned: ReadonlySet<string>;
}

export class Checks {
  private readonly seen = new Map<string, Seen>();
  private readonly dropped = new Set<string>();
  private tags: { link: SourceLink; id: string; sequence: number; incarnation: number }[] = [];
  private readonly tagTimes = new Map<string, number>();
  /** Bits were turned: what is read may be refused from now on. */
  damaged = false;
  bitsTurned = false;
  private readonly folds = new WeakMap<SourceLink, number>();
  /** While a target holds the epoch nothing may land there: what was received when it was fenced. */
  private readonly fenced = new Map<string, Vector>();

  constructor(private readonly cluster: ClusterView) {}

  start(): void {
    const { world } = this.cluster;
    const step = (): void => {
      for (const target of this.cluster.targets) this.watch(target);
      this.checkTags();
      world.scheduler.after(900, step);
    };
    world.scheduler.after(900, step);
  }

  /** Out of space, history was given up: allowed, and told. */
  historyDropped(host: string): void {
    this.dropped.add(host);
  }

  /** Checkpoints without a disk that was forgotten are complete now: the policy chooses among others than it did. */
  diskForgotten(host: string): void {
    this.seen.delete(host);
  }

  /** A tag was placed: once its sequence is durable, its target lists it for as long as the policy says. */
  tagged(link: SourceLink, id: string, sequence: number): void {
    this.tagTimes.set(id, this.cluster.world.nowMs);
    this.tags.push({ link, id, sequence, incarnation: link.status.incarnation });
  }

  private checkTags(): void {
    this.tags = this.tags.filter(({ link, id, sequence, incarnation }) => {
      const { status } = link;
      if (status.incarnation !== incarnation) return false;
      if (status.sequenceDurable < sequence) return true;
      const target = this.cluster.targets.find(({ host }) => host.name === link.target);
      if (target?.group === undefined || target.host.process === undefined) return true;
      if (
        !target.group.checkpoints().some((checkpoint) => checkpoint.id === id) &&
        !this.dropped.has(target.host.name)
      ) {
        const marked = this.cluster.model.markOf(id, this.cluster.sources[0]?.agent ?? '');
        if (marked !== undefined && this.cluster.world.nowMs - this.taggedMs(id) < 10_000) {
          this.cluster.broken ??= `${target.host.name}: tagged checkpoint ${id} is durable but not listed`;
        }
      }
      return false;
    });
  }

  private taggedMs(id: string): number {
    return this.tagTimes.get(id) ?? 0;
  }

  fence(target: TargetHost): void {
    const { group } = target;
    if (group !== undefined) this.fenced.set(target.host.name, { ...group.context.journal.received });
  }

  unfence(target: TargetHost): void {
    this.fenced.delete(target.host.name);
  }

  /** Reads a checkpoint whole and compares; a death of the target in the middle is no finding. */
  async verify(target: TargetHost, group: TargetGroup, checkpoint: Checkpoint): Promise<boolean> {
    const { process } = target.host;
    let images: Map<number, Uint8Array>;
    try {
      images = await imagesOf(group, checkpoint);
    } catch (error) {
      if (process?.alive !== true) return false;
      if (!group.checkpoints().some(({ id }) => id === checkpoint.id)) return false;
      // An injected read failure or a full disk; corruption is never excused.
      if (isTidemarkError(error) && error.retry) return false;
      throw error;
    }
    if (process?.alive !== true) return false;
    // Thinned or promoted away while it was read.
    if (!group.checkpoints().some(({ id }) => id === checkpoint.id)) return false;
    const byName = new Map<string, { bytes: Uint8Array; agent: string }>();
    const { state } = group.context.manifest;
    const then = disksAt(state, checkpoint.vector);
    if (then.some((disk) => state.disks.get(disk.index)?.sizeBytes !== disk.sizeBytes))
      this.cluster.counts.oldDiskSets++;
    for (const disk of then) {
      const bytes = images.get(disk.index);
      const agent = group.context.manifest.state.streams.get(disk.stream) ?? '';
      if (bytes !== undefined) byName.set(disk.name, { bytes, agent });
    }
    for (const hash of Object.values(definitionsOf(checkpoint))) {
      if (await group.definitions.has(hash)) this.cluster.counts.definitionsFound++;
      else if (process.alive)
        throw new Error(`${target.host.name}: checkpoint ${checkpoint.id} names a VM definition that is not there`);
    }
    const wrong = this.cluster.model.check(checkpoint.id, byName, checkpoint.complete);
    if (wrong !== undefined)
      throw new Error(`${target.host.name} at ${this.cluster.world.nowMs.toFixed(1)} ms: ${wrong}`);
    this.cluster.counts.checkpointsVerified++;
    return true;
  }

  /** After everything healed: a last tagged checkpoint must come and hold exactly what was acknowledged. */
  async final(): Promise<void> {
    const { cluster } = this;
    const { world } = cluster;
    for (const target of cluster.targets) {
      await this.until(
        `${target.host.name} opens`,
        () => target.group !== undefined || target.openError !== undefined,
        60_000,
      );
      if (target.openError !== undefined) throw target.openError;
    }
    await cluster.actions.release();
    const streaming = (): boolean =>
      cluster.sources.every((source) =>
        (source.group?.status.links ?? []).every(
          (link) => link.state === 'streaming' && link.syncs.length === 0 && link.unsentBytes === 0,
        ),
      );
    for (const source of cluster.sources) source.running = false;
    await this.until('every link streams', streaming, 180_000);
    // What an agent did not know that it had lost, when it started, a person gives up.
    for (const target of cluster.targets) await world.drive(cluster.actions.forgetDisks(target), 60_000);
    await this.until('every link streams again', streaming, 180_000);
    await this.until('guests are answered', () => cluster.sources.every((source) => !source.busy), 10_000);
    for (const target of cluster.targets) await this.lastCheckpoint(target);
    for (const target of cluster.targets) {
      const group = target.group as TargetGroup;
      const list = group.checkpoints();
      this.checkSyncsClosed(target.host.name, group);
      cluster.counts.barriers += list.filter(({ vector }) => Object.keys(vector).length > 1).length;
      for (const checkpoint of list) await world.drive(this.verify(target, group, checkpoint), 120_000);
      await world.drive(
        group.context.journal.verify(() => undefined, new AbortController().signal),
        120_000,
      );
      const damaged = await world.drive(
        group.context.replicas.verify(() => undefined, new AbortController().signal),
        120_000,
      );
      if (damaged.length > 0)
        throw new Error(`${target.host.name}: replica chunks ${JSON.stringify(damaged)} do not match`);
    }
    await cluster.actions.final();
  }

  /** With every link streaming no sync range of a newest incarnation is open. */
  private checkSyncsClosed(host: string, group: TargetGroup): void {
    const open = new Map<string, number>();
    for (const { mark, begin, stream, incarnation } of group.context.journal.syncMarks()) {
      if (group.context.manifest.state.incarnations.get(stream)?.incarnation !== incarnation) continue;
      if (begin) open.set(mark.syncId, stream);
      else open.delete(mark.syncId);
    }
    if (open.size > 0) throw new Error(`${host}: sync ranges ${[...open.keys()].join(', ')} were never closed`);
  }

  private async lastCheckpoint(target: TargetHost): Promise<void> {
    const { cluster } = this;
    const group = target.group as TargetGroup;
    const before = new Set(group.checkpoints().map(({ id }) => id));
    const startedAt = cluster.model.counter.now;
    const found = (): Checkpoint | undefined =>
      group
        .checkpoints()
        .findLast(
          (checkpoint) =>
            checkpoint.complete &&
            !before.has(checkpoint.id) &&
            cluster.sources.every((source) => (cluster.model.markOf(checkpoint.id, source.agent) ?? 0) > startedAt),
        );
    await this.until(`${target.host.name} gets a last complete checkpoint`, () => found() !== undefined, 60_000);
    const checkpoint = found() as Checkpoint;
    await cluster.world.drive(this.verify(target, group, checkpoint), 60_000);
    const images = await cluster.world.drive(imagesOf(group, checkpoint), 60_000);
    const live = new Map(cluster.sources.flatMap((source) => source.live.map(({ spec, guest }) => [spec.name, guest])));
    const there = disksAt(group.context.manifest.state, checkpoint.vector);
    if (there.length !== live.size)
      throw new Error(`${target.host.name}: ${there.length} disks at rest, the guests have ${live.size}`);
    for (const disk of there) {
      const guest = live.get(disk.name);
      if (guest === undefined || Buffer.compare(guest.bytes, images.get(disk.index) as Uint8Array) !== 0) {
        throw new Error(`${target.host.name}: ${disk.name} at rest differs from the guest's disk`);
      }
    }
  }

  private async until(what: string, condition: () => boolean, timeoutMs: number): Promise<void> {
    const { world } = this.cluster;
    const end = await world.run({
      until: () => condition() || this.cluster.broken !== undefined,
      untilMs: world.nowMs + timeoutMs,
    });
    this.cluster.raise();
    if (end === 'until') return;
    const links = this.cluster.sources.map((source) => source.group?.status.links);
    const journals = this.cluster.targets.map(({ group }) => ({
      usage: group?.context.journal.usage,
      limitBytes: group?.context.settings.hardLimitBytes,
      paused: group?.upkeep.mustPause,
      promoted: group?.context.manifest.state.promoted?.checkpoint.id,
      checkpoints: group?.checkpoints().map(({ id, complete }) => `${id}${complete ? '' : '-'}`),
      pinned: group === undefined ? [] : [...group.pinned()],
    }));
    throw new Error(
      `never within ${timeoutMs} ms: ${what}; ${JSON.stringify(journals)}; links ${JSON.stringify(links)}`,
    );
  }

  private watch(target: TargetHost): void {
    const { group, host } = target;
    if (target.openError !== undefined && this.cluster.broken === undefined) {
      this.cluster.broken = `${host.name} does not open: ${target.openError.stack ?? target.openError.message}`;
    }
    if (group === undefined || host.process === undefined || this.damaged) return;
    this.countFolds();
    const limit = this.fenced.get(host.name);
    if (limit !== undefined) this.checkFence(host.name, limit, group.context.journal.received);
    const list = group.checkpoints();
    const nowMs = group.context.sourceNowMs();
    const policy = retentionOf(group.context.settings);
    const pinned = group.pinned();
    const kept = checkpointsToKeep(list, policy, nowMs, new Set());
    const before = this.seen.get(host.name);
    if (before !== undefined && !this.dropped.has(host.name)) {
      const still = new Set(list.map(({ id }) => id));
      const known = new Set(before.list.map(({ id }) => id));
      const both = [...before.list, ...list.filter(({ id }) => !known.has(id))];
      const keptNow = checkpointsToKeep(both, policy, nowMs, new Set());
      for (const checkpoint of before.list) {
        const { id } = checkpoint;
        const byPolicy = before.kept.has(id) && keptNow.has(id);
        if (still.has(id) || !(byPolicy || (before.pinned.has(id) && pinned.has(id)))) continue;
        // The clock of the source may have jumped between the two looks.
        if (this.aged(checkpoint, nowMs, group)) continue;
        this.cluster.broken ??=
          `${host.name}: checkpoint ${checkpoint.id} (age ${nowMs - checkpoint.sourceTimeMs}) is gone, but the policy keeps it; ` +
          `before ${JSON.stringify(before.list.map(({ id, complete }) => `${id}${complete ? '' : '-'}`))} now ${JSON.stringify(list.map(({ id }) => id))}`;
      }
    }
    this.seen.set(host.name, { atMs: this.cluster.world.nowMs, list, kept, pinned });
    const newest = list.at(-1);
    if (newest !== undefined && this.cluster.world.random.chance(0.25))
      this.background(this.verify(target, group, newest));
  }

  private countFolds(): void {
    for (const source of this.cluster.sources) {
      for (const link of source.group?.links ?? []) {
        const { folds } = link.status.counters;
        this.cluster.counts.folds += folds - (this.folds.get(link) ?? 0);
        this.folds.set(link, folds);
      }
    }
  }

  /** Within 5 s of a tier's edge, clocks and rounds of upkeep decide. */
  private aged(checkpoint: Checkpoint, nowMs: number, group: TargetGroup): boolean {
    const ageMs = nowMs - checkpoint.sourceTimeMs;
    const edges = [...group.context.settings.tiers.map((tier) => tier.untilAgeMs), group.context.settings.namedAgeMs];
    return edges.some((edge) => Math.abs(edge - ageMs) < 5000);
  }

  private checkFence(host: string, limit: Vector, received: Vector): void {
    for (const [stream, position] of Object.entries(received)) {
      const last = limit[Number(stream)];
      if (last === undefined || comparePositions(position, last) > 0) {
        this.cluster.broken ??= `${host}: stream ${stream} landed ${JSON.stringify(position)} behind the fence at ${JSON.stringify(last)}`;
      }
    }
  }

  /** Runs beside the life of the seed; its failure is the seed's. */
  background(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      this.cluster.broken ??= error instanceof Error ? (error.stack ?? error.message) : String(error);
    });
  }
}
