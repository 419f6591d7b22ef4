/** What operators do meanwhile: views, pins, tags, failovers, rollbacks, a commit at the end, a cloned source. */
import { isTidemarkError } from '../../agent/src/core/errors.js';
import { NbdError } from '../../agent/src/nbd/backend.js';
import { digestChunkBytes } from '../../agent/src/stream/messages.js';
import { disksAt } from '../../agent/src/target/disk-set.js';
import type { TargetGroup } from '../../agent/src/target/group.js';
import type { OpenView } from '../../agent/src/target/views.js';
import type { Payload } from '../../agent/src/nbd/payload.js';
import type { ClusterView } from './cluster-view.js';
import type { SourceHost } from './source-host.js';
import { imagesOf, type TargetHost } from './target-host.js';
import { sectorBytes, stampedBytes } from './model.js';

/** What a view's clients wrote and flushed: the bytes that must be there again, sector by sector. */
interface ViewModel {
  readonly target: TargetHost;
  readonly id: string;
  /** Newest content of each disk as its client knows it. */
  readonly bytes: Map<string, Uint8Array>;
  /** Sectors written since the last flush: after a death they may be old or new. */
  readonly loose: Map<string, Map<number, Uint8Array[]>>;
  /** One client at a time; of which process it is. */
  user: unknown;
  /** The target's process that its sectors were last settled with. */
  process: unknown;
}

export class Actions {
  private stopped = false;
  private running = 0;
  private serial = 0;
  private readonly views = new Map<string, ViewModel>();
  private failedOver = 0;

  constructor(private readonly cluster: ClusterView) {}

  /** Enough of everything happened for this seed. */
  get satisfied(): boolean {
    return this.failedOver >= 1;
  }

  start(): void {
    this.later(6000, 4000, () => this.next());
    this.later(12_000, 12_000, () => this.failoverAndBack());
    this.later(5000, 8000, () => this.changeDisks());
    if (this.cluster.world.random.chance(0.3)) this.later(15_000, 20_000, () => this.zombie());
  }

  /** Waits until what runs has ended. */
  async stop(): Promise<void> {
    this.stopped = true;
    const { world } = this.cluster;
    await world.run({ until: () => this.running === 0, untilMs: world.nowMs + 60_000 });
  }

  /** Views show what was left in them; then nothing is held any more. */
  async release(): Promise<void> {
    const { world } = this.cluster;
    for (const view of [...this.views.values()]) {
      // A scratch whose fdatasync failed answers EIO until it is opened again.
      if (this.openOf(view)?.view.failed === false) await world.drive(this.checkView(view), 60_000);
      this.views.delete(view.id);
      await world.drive(view.target.group?.views.close(view.id) ?? Promise.resolve(), 60_000);
    }
    for (const { group } of this.cluster.targets) {
      for (const view of [...(group?.context.manifest.state.views.values() ?? [])]) {
        await world.drive(group!.views.close(view.id), 60_000);
      }
      for (const pin of [...(group?.context.manifest.state.pins.values() ?? [])]) {
        await world.drive(group!.context.manifest.append({ ...pin, removed: true }), 60_000);
      }
    }
  }

  /** A failover and a commit, or bits that turn at rest: repaired while the sources live, refused without them. */
  async final(): Promise<void> {
    const { world, targets } = this.cluster;
    const target = targets[0] as TargetHost;
    if (world.random.chance(0.25)) await world.drive(this.commit(target), 180_000);
    else if (world.random.chance(0.3)) await this.flipBits(target);
    else if (world.random.chance(0.5)) await this.repairBits(target);
  }

  private next(): void {
    if (this.stopped) return;
    const { world, targets } = this.cluster;
    const target = world.random.pick(targets);
    const act = world.random.pick([
      () => this.openView(target),
      () => this.openView(target),
      () => this.useViews(target),
      () => this.useViews(target),
      () => this.closeView(target),
      () => this.verifyRandom(target),
      () => this.verifyRandom(target),
      () => this.tag(),
      () => this.tag(),
      () => this.tag(),
      () => this.pin(target),
      () => this.forgetDisks(target),
    ]);
    this.track(target, act());
    this.later(500, 2500, () => this.next());
  }

  /** An action may meet a dead or failing target; only wrong results count. */
  private track(target: TargetHost, work: Promise<void>): void {
    const { process } = target.host;
    // A promise of a dead process never settles: nobody waits for these.
    work.catch((error: unknown) => {
      if (process?.alive !== true) return;
      if (isTidemarkError(error) && excused.has(error.code)) return;
      this.cluster.broken ??= error instanceof Error ? (error.stack ?? error.message) : String(error);
    });
  }

  private async openView(target: TargetHost): Promise<void> {
    const { group } = target;
    if (group === undefined || this.views.size >= 3) return;
    const { world, counts } = this.cluster;
    const list = group.checkpoints().filter(({ complete }) => complete);
    if (list.length === 0) return;
    const checkpoint = world.random.pick(list);
    const id = `drill-${++this.serial}`;
    const { process } = target.host;
    const open = await group.views.open({
      id,
      at: { by: 'id', checkpoint: checkpoint.id },
      purpose: 'drill',
      scratchLimitBytes: 512 * 1024,
    });
    if (process?.alive !== true) return;
    counts.pinnedViews++;
    this.cluster.note(`view ${id} opened at ${checkpoint.id} ${JSON.stringify(checkpoint.vector)}`);
    const images = await imagesOf(group, checkpoint);
    if (process.alive) this.remember(target, group, open, images);
  }

  private remember(
    target: TargetHost,
    group: TargetGroup,
    open: OpenView,
    images: ReadonlyMap<number, Uint8Array>,
  ): ViewModel {
    const bytes = new Map<string, Uint8Array>();
    for (const disk of disksAt(group.context.manifest.state, open.checkpoint.vector)) {
      const image = images.get(disk.index);
      if (image !== undefined) bytes.set(disk.name, image.slice());
    }
    const view: ViewModel = {
      target,
      id: open.record.id,
      bytes,
      loose: new Map(),
      user: undefined,
      process: target.host.process,
    };
    this.views.set(view.id, view);
    return view;
  }

  private async useViews(target: TargetHost): Promise<void> {
    for (const view of [...this.views.values()].filter((candidate) => candidate.target === target)) {
      await this.exclusively(view, async () => {
        await this.writeView(view);
        await this.checkView(view);
      });
    }
  }

  /** Skipped while another client of the same process uses the view. */
  private async exclusively(view: ViewModel, use: () => Promise<void>): Promise<void> {
    const { process } = view.target.host;
    if (process === undefined || view.user === process || this.openOf(view) === undefined) return;
    const { group } = view.target;
    view.user = process;
    try {
      if (view.process !== process) {
        // After a death unflushed sectors are old or new; from now on they are what they are.
        await this.checkView(view);
        if (!process.alive) return;
        view.loose.clear();
        view.process = process;
      }
      await use();
    } catch (error) {
      // The group was closed and opened again under the client, which a real one is cut off by.
      if (view.target.group !== group) return;
      if (!(error instanceof NbdError) || !(error.code === 'EIO' || error.code === 'ENOSPC')) throw error;
    } finally {
      if (view.user === process) view.user = undefined;
    }
  }

  private openOf(view: ViewModel): OpenView | undefined {
    return view.target.group?.views.list().find(({ record }) => record.id === view.id);
  }

  private async writeView(view: ViewModel): Promise<void> {
    const { random } = this.cluster.world;
    const open = this.openOf(view);
    const { process } = view.target.host;
    if (open === undefined) return;
    for (const [name, backend] of open.disks) {
      const known = view.bytes.get(name);
      if (known === undefined) continue;
      const count = 1 + random.int(16);
      const first = random.int(known.length / sectorBytes - count);
      const bytes = stampedBytes(0x7000_0000 + random.int(1000), count * sectorBytes);
      this.loosen(view, name, first, known, bytes);
      known.set(bytes, first * sectorBytes);
      this.cluster.note(`view ${view.id} ${name} write ${first}+${count} ${Buffer.from(bytes).toString('hex', 0, 4)}`);
      try {
        await backend.write(first * sectorBytes, heapPayload(bytes), false);
      } catch (error) {
        // Refused: each sector is old or new, and stays so.
        if (process?.alive === true) await this.checkView(view);
        throw error;
      }
      if (process?.alive !== true) return;
      if (random.chance(0.4)) {
        await backend.flush();
        this.cluster.note(`view ${view.id} ${name} flushed`);
        if (process.alive) view.loose.delete(name);
      }
    }
  }

  /** Remembers what each written sector may be again after a crash. */
  private loosen(view: ViewModel, name: string, first: number, known: Uint8Array, bytes: Uint8Array): void {
    const loose = view.loose.get(name) ?? new Map<number, Uint8Array[]>();
    view.loose.set(name, loose);
    for (let index = 0; index * sectorBytes < bytes.length; index++) {
      const at = (first + index) * sectorBytes;
      const options = loose.get(first + index) ?? [known.slice(at, at + sectorBytes)];
      options.push(bytes.slice(index * sectorBytes, (index + 1) * sectorBytes));
      loose.set(first + index, options);
    }
  }

  private async checkView(view: ViewModel): Promise<void> {
    const open = this.openOf(view);
    const { process } = view.target.host;
    if (open === undefined || process === undefined) return;
    for (const [name, backend] of open.disks) {
      const known = view.bytes.get(name);
      if (known === undefined) continue;
      const bytes = new Uint8Array(known.length);
      await backend.read(bytes, 0);
      if (!process.alive) return;
      const loose = view.loose.get(name);
      for (let at = 0; at < bytes.length; at += sectorBytes) {
        const seen = bytes.subarray(at, at + sectorBytes);
        if (Buffer.compare(seen, known.subarray(at, at + sectorBytes)) === 0) continue;
        const options = loose?.get(at / sectorBytes) ?? [];
        if (!options.some((option) => Buffer.compare(option, seen) === 0)) {
          const words = [seen, known.subarray(at, at + sectorBytes), ...options].map((sector) =>
            Buffer.from(sector)
              .toString('hex')
              .replaceAll(/(.{8})\1+/g, '$1*'),
          );
          throw new Error(
            `view ${view.id} ${name} sector ${at / sectorBytes}: ${words[0]}; its client left ${words[1]} or ${words.slice(2).join(', ')}`,
          );
        }
        known.set(seen, at);
      }
    }
  }

  private async closeView(target: TargetHost): Promise<void> {
    const view = [...this.views.values()].find(
      (candidate) => candidate.target === target && candidate.id.startsWith('drill'),
    );
    const { group } = target;
    if (view === undefined || group === undefined || view.user === target.host.process) return;
    await this.exclusively(view, () => this.checkView(view));
    // No client any more, as after its export was removed.
    view.user = target.host.process;
    this.views.delete(view.id);
    await group.views.close(view.id);
  }

  private async verifyRandom(target: TargetHost): Promise<void> {
    const { group } = target;
    const list = group?.checkpoints() ?? [];
    if (group === undefined || list.length === 0) return;
    await this.cluster.checks.verify(target, group, this.cluster.world.random.pick(list));
  }

  private async tag(): Promise<void> {
    const source = this.cluster.world.random.pick(this.cluster.sources);
    const { group } = source;
    const streams = this.cluster.sources.length;
    if (group === undefined || streams > 1) return;
    try {
      for (const { target, mark } of group.tag('by hand')) {
        const link = group.links.find((candidate) => candidate.target === target);
        if (mark !== undefined && link !== undefined) this.cluster.checks.tagged(link, mark.id, mark.sequence);
      }
    } catch (error) {
      if (!isTidemarkError(error, 'illegal-state')) throw error;
    }
    await Promise.resolve();
  }

  private async pin(target: TargetHost): Promise<void> {
    const { group } = target;
    if (group === undefined) return;
    const { random } = this.cluster.world;
    const { pins } = group.context.manifest.state;
    const known = [...pins.values()].find(({ id }) => id.startsWith('sim'));
    if (known !== undefined) {
      await group.context.manifest.append({ ...known, removed: true });
      return;
    }
    const list = group.checkpoints();
    if (list.length === 0) return;
    await group.context.lock.run(async () => {
      const now = group.checkpoints();
      const checkpoint = now[random.int(now.length)];
      if (checkpoint === undefined) return;
      await group.context.manifest.append({
        type: 'pin',
        id: `sim-${++this.serial}`,
        checkpoint: checkpoint.id,
        reason: 'simulation',
        removed: false,
      });
    });
  }

  /** Guests' disks are plugged in, grown, and taken away, whether their agent runs or not. */
  private changeDisks(): void {
    if (this.stopped) return;
    const { world, sources, counts } = this.cluster;
    const { random } = world;
    const source = random.pick(sources);
    const { spec, guest } = random.pick(source.live);
    const dice = random.float();
    if (dice < 0.5 && guest.bytes.length < 768 * 1024) {
      const sizeBytes = guest.bytes.length + (1 + random.int(400)) * sectorBytes;
      this.cluster.note(`action: ${spec.name} grows to ${sizeBytes}`);
      source.growDisk(spec.name, sizeBytes);
      counts.disksGrown++;
    } else if (dice < 0.75 && source.live.length < 5) {
      // A name that was used before may come again.
      const name = `${source.agent}-new${random.int(3)}`;
      if (source.live.every((disk) => disk.spec.name !== name)) {
        const added = this.cluster.diskSpec(name, source.agent);
        this.cluster.note(`action: ${name} of ${added.sizeBytes} is added`);
        source.addDisk(added);
        counts.disksAdded++;
      }
    } else if (source.live.length > 1) {
      this.cluster.note(`action: ${spec.name} is removed`);
      source.removeDisk(spec.name);
      counts.disksRemoved++;
    }
    this.later(2000, 9000, () => this.changeDisks());
  }

  /** Disks that a source did not name when it started, because they left while it was dead. */
  async forgetDisks(target: TargetHost): Promise<void> {
    const { group } = target;
    if (group === undefined) return;
    for (const { name, missing } of [...group.context.manifest.state.disks.values()]) {
      if (missing !== true) continue;
      this.cluster.note(`action: ${name} is forgotten`);
      try {
        await group.forgetDisk(name);
        this.cluster.checks.diskForgotten(target.host.name);
        this.cluster.counts.disksForgotten++;
      } catch (error) {
        // Its source has it again meanwhile.
        if (!isTidemarkError(error, 'disk-unknown') && !isTidemarkError(error, 'illegal-state')) throw error;
      }
    }
  }

  /** Fails over on one target, writes to the recovered disks, rolls back; each step is repeated until it is done. */
  private failoverAndBack(): void {
    if (this.stopped) return;
    const { world, targets, counts, checks } = this.cluster;
    const target = targets[0] as TargetHost;
    const id = `op-${++this.serial}`;
    let step: 'failover' | 'use' | 'rollback' = 'failover';
    let until = 0;
    const turn = async (): Promise<boolean> => {
      const { group } = target;
      if (group === undefined) return false;
      if (step === 'failover') {
        if (group.checkpoints().every(({ complete }) => !complete)) return this.stopped;
        const at = { by: 'latest' } as const;
        await group.operations.run({
          id,
          kind: 'failover',
          arguments: { at, sourceMayBeAlive: true },
          drivenBy: 'simulation',
        });
        checks.fence(target);
        counts.failovers++;
        const open = group.views.get(`production-${id}`);
        const images = await imagesOf(group, open.checkpoint);
        await checks.verify(target, group, open.checkpoint);
        this.remember(target, group, open, images);
        until = world.nowMs + world.random.between(1500, 7000);
        step = 'use';
        return false;
      }
      if (step === 'use') {
        const view = this.views.get(`production-${id}`);
        if (view !== undefined) {
          await this.exclusively(view, async () => {
            await this.writeView(view);
            await this.checkView(view);
          });
        }
        if (world.nowMs >= until || this.stopped) step = 'rollback';
        return false;
      }
      this.views.delete(`production-${id}`);
      checks.unfence(target);
      await group.operations.run({ id: `${id}-back`, kind: 'rollback', arguments: {}, drivenBy: 'simulation' });
      counts.rollbacks++;
      this.failedOver++;
      return true;
    };
    this.repeat(target, turn, () => this.later(10_000, 15_000, () => this.failoverAndBack()));
  }

  /** Calls `turn` until it says that it is done, across deaths of the target. */
  private repeat(target: TargetHost, turn: () => Promise<boolean>, done: () => void): void {
    this.running++;
    const again = (): void => {
      const { process } = target.host;
      if (process === undefined) {
        this.later(300, 300, again);
        return;
      }
      let settled = false;
      const finish = (ended: boolean): void => {
        if (settled) return;
        settled = true;
        if (!ended) {
          this.later(300, 500, again);
          return;
        }
        this.running--;
        done();
      };
      turn().then(finish, (error: unknown) => {
        const excusable = !process.alive || (isTidemarkError(error) && excused.has(error.code));
        if (!excusable) this.cluster.broken ??= error instanceof Error ? (error.stack ?? error.message) : String(error);
        finish(false);
      });
      const watch = (): void => {
        if (settled) return;
        if (process.alive) this.cluster.world.scheduler.after(400, watch);
        else finish(false);
      };
      watch();
    };
    again();
  }

  /** The source agent's machine was cloned: the old one comes back from a partition with what it had not sent. */
  private zombie(): void {
    const { cluster } = this;
    const { world } = cluster;
    const old = cluster.sources[0];
    if (this.stopped || old === undefined || old.host.process === undefined || cluster.counts.zombies > 0) return;
    // A start that never reached the target cannot be told from a newer one.
    if (old.group?.status.links.every(({ incarnation }) => incarnation > 0) !== true) return;
    cluster.counts.zombies++;
    cluster.note('action: the source is cloned');
    const names = cluster.targets.map(({ host }) => host.name);
    // Cut off by more than a partition, which other faults may heal.
    world.network.setTrusted(old.host.name, false);
    for (const pair of world.network.pairs(old.host.name)) world.network.cut(pair);
    this.later(800, 800, () => {
      const specs = old.live.map(({ spec, guest }) => ({ ...spec, sizeBytes: guest.bytes.length }));
      const clone = cluster.makeSource(`${old.agent}2`, old.agent, specs, names);
      cluster.aliases.set(`${old.agent}2`, old.agent);
      for (const [index, { guest }] of clone.live.entries()) guest.bytes.set(old.live[index]!.guest.bytes);
      clone.writeCount = old.writeCount;
      old.writeCount = 0;
      old.retire();
      cluster.sources[0] = clone;
      clone.start();
      clone.startGuests(world.random.fork(), () => 75);
      this.zombieReturns(old, clone);
    });
  }

  /** Only behind the clone's own start: before it nobody could tell which of the two is the newer. */
  private zombieReturns(old: SourceHost, clone: SourceHost): void {
    const { network } = this.cluster.world;
    const registered = clone.group?.status.links.every(({ incarnation }) => incarnation > 0) === true;
    if (!registered) {
      this.later(500, 500, () => this.zombieReturns(old, clone));
      return;
    }
    // Started again meanwhile, it would be a newer start than the clone's.
    if (old.group?.status.links.every(({ incarnation }) => incarnation > 0) !== true) {
      old.host.kill();
      return;
    }
    network.setTrusted(old.host.name, true);
    this.later(4000, 2000, () => old.host.kill());
  }

  private async commit(target: TargetHost): Promise<void> {
    const { group } = target;
    if (group === undefined) return;
    const { context } = group;
    await group.operations.run({
      id: 'last-failover',
      kind: 'failover',
      arguments: { at: { by: 'latest' }, sourceMayBeAlive: true },
      drivenBy: 'simulation',
    });
    this.cluster.counts.failovers++;
    const open = group.views.get('production-last-failover');
    const view = this.remember(target, group, open, await imagesOf(group, open.checkpoint));
    for (let count = 0; count < 5; count++) await this.writeView(view);
    await this.checkView(view);
    const done = await group.operations.run({
      id: 'last-commit',
      kind: 'commit',
      arguments: {},
      drivenBy: 'simulation',
    });
    this.cluster.counts.commits++;
    await this.rollbackIsRefused(group);
    for (const path of done.result?.['files'] as string[]) {
      const name = path.slice(path.lastIndexOf('/') + 1, -'.raw'.length);
      const file = await context.storage.open(path, 'read');
      const bytes = new Uint8Array(await file.sizeBytes());
      await file.read(bytes, 0);
      await file.close();
      if (Buffer.compare(bytes, view.bytes.get(name) as Uint8Array) !== 0)
        throw new Error(`committed ${name} differs from its view`);
    }
    this.views.delete(view.id);
  }

  private async rollbackIsRefused(group: TargetGroup): Promise<void> {
    try {
      await group.operations.run({ id: 'too-late', kind: 'rollback', arguments: {}, drivenBy: 'simulation' });
    } catch (error) {
      if (isTidemarkError(error, 'illegal-state')) return;
      if (isTidemarkError(error, 'view-unknown'))
        throw new Error('rollback after commit got as far as looking for its view', { cause: error });
      throw error;
    }
    throw new Error('rollback was accepted after committing');
  }

  /** Bits turn at rest: every read is right or refused, never wrong. */
  private async flipBits(target: TargetHost): Promise<void> {
    const { world, counts } = this.cluster;
    const { host } = target;
    this.cluster.checks.damaged = true;
    this.cluster.checks.bitsTurned = true;
    await world.run({ untilMs: world.nowMs + 3000 });
    host.kill();
    target.group = undefined;
    for (const source of this.cluster.sources) source.host.kill();
    const flips = 1 + world.random.int(4);
    for (let count = 0; count < flips; count++) host.disk.flipRandomBit((path) => !path.includes('/views/'));
    counts.bitFlips += flips;
    void target.start();
    await world.run({
      until: () => target.group !== undefined || target.openError !== undefined,
      untilMs: world.nowMs + 60_000,
    });
    if (target.openError !== undefined) {
      if (!isTidemarkError(target.openError) || !damage.has(target.openError.code)) throw target.openError;
      return;
    }
    const group = target.group as TargetGroup | undefined;
    if (group === undefined) throw new Error('the target does not open after bits turned');
    for (const checkpoint of group.checkpoints()) {
      try {
        await world.drive(this.cluster.checks.verify(target, group, checkpoint), 120_000);
      } catch (error) {
        if (!isTidemarkError(error) || !damage.has(error.code)) throw error;
      }
    }
  }

  /** Bits turn in the replica while everything lives: the scrub finds them and the source repairs them. */
  private async repairBits(target: TargetHost): Promise<void> {
    const { world, counts } = this.cluster;
    await world.run({ untilMs: world.nowMs + 20_000 });
    const group = target.group as TargetGroup;
    const { scrub } = group.upkeep;
    const chunks = await world.drive(chunksWithoutJournal(group), 60_000);
    if (chunks.length === 0) return;
    this.cluster.checks.damaged = this.cluster.checks.bitsTurned = true;
    const flips = 1 + world.random.int(3);
    for (let count = 0; count < flips; count++) {
      const { path, offsetBytes } = world.random.pick(chunks);
      target.host.disk.flipBit(path, offsetBytes + world.random.int(digestChunkBytes), world.random.int(8));
    }
    counts.bitFlips += flips;
    const { passes } = scrub.counters;
    await this.reach('two passes of the scrub', () => scrub.counters.passes >= passes + 2, 120_000);
    await this.reach('the replica is repaired', () => scrub.damagedCount === 0, 300_000);
    for (const checkpoint of group.checkpoints())
      await world.drive(this.cluster.checks.verify(target, group, checkpoint), 120_000);
  }

  private async reach(what: string, condition: () => boolean, timeoutMs: number): Promise<void> {
    const { world } = this.cluster;
    const end = await world.run({ until: condition, untilMs: world.nowMs + timeoutMs });
    this.cluster.raise();
    if (end !== 'until') throw new Error(`never within ${timeoutMs} ms: ${what}`);
  }

  private later(leastMs: number, spreadMs: number, run: () => void): void {
    const { world } = this.cluster;
    world.scheduler.after(leastMs + world.random.float() * spreadMs, run);
  }
}

/** Failures of the disk, and choices that retention overtook. */
const excused: ReadonlySet<string> = new Set([
  'storage-io',
  'storage-full',
  'scratch-full',
  'checkpoint-unknown',
  'checkpoint-expired',
  'view-unknown',
  'barrier-broken',
  'operation-running',
  'shutting-down',
]);

const damage: ReadonlySet<string> = new Set([
  'journal-corrupt',
  'replica-mismatch',
  'format-version',
  'encryption-key',
  'scratch-corrupt',
  'protocol-error',
]);

/** Where a chunk of the replica that is not zero is read for the newest checkpoint. */
async function chunksWithoutJournal({ context }: TargetGroup): Promise<{ path: string; offsetBytes: number }[]> {
  const found: { path: string; offsetBytes: number }[] = [];
  const { journal, replicas } = context;
  const cut = await journal.cut(journal.durable);
  for (const index of replicas.replica.diskIndexes) {
    const disk = replicas.replica.disk(index);
    for (let chunk = 0; chunk < disk.chunkCount; chunk++) {
      const offsetBytes = chunk * digestChunkBytes;
      const lengthBytes = Math.min(digestChunkBytes, disk.sizeBytes - offsetBytes);
      const pieces = await cut.lookup(index, offsetBytes, lengthBytes);
      const { zero } = await disk.run(offsetBytes, 1);
      if (!zero && pieces.some(({ source }) => source === 'base')) found.push({ path: disk.path, offsetBytes });
    }
  }
  cut.release();
  return found;
}

function heapPayload(bytes: Uint8Array): Payload {
  return { bytes, retain: () => undefined, release: () => undefined };
}
