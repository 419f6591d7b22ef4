/** The world of one seed: agents, guests, faults, actions, and what is checked while they live. */
import type { EventSink } from '../../agent/src/core/events.js';
import type { LinkBounds } from '../../agent/src/link/environment.js';
import type { GroupDeclaration } from '../../agent/src/target/group.js';
import { Actions } from './actions.js';
import { counterNames, type ClusterView, type CounterName, type SeedResult } from './cluster-view.js';
import { Checks } from './checks.js';
import { Faults } from './faults.js';
import { GroupModel, sectorBytes, stampedBytes } from './model.js';
import { SourceHost, type SimDiskSpec } from './source-host.js';
import { TargetHost } from './target-host.js';
import type { SimProcess } from './world/sim-host.js';
import { SimWorld } from './world/sim-world.js';

const writesWanted = 2000;
const faultsWanted = 5;
const lifeMsMin = 45_000;
const lifeMsMax = 240_000;
const KiB = 1024;

export class Cluster implements ClusterView {
  readonly world: SimWorld;
  readonly model = new GroupModel();
  readonly sources: SourceHost[] = [];
  readonly targets: TargetHost[] = [];
  readonly counts = Object.fromEntries(counterNames.map((name) => [name, 0])) as Record<CounterName, number>;
  readonly aliases = new Map<string, string>();
  private readonly seeds = new Map<string, Uint8Array>();
  readonly groupName = 'erp';
  readonly checks: Checks;
  readonly faults: Faults;
  readonly actions: Actions;
  /** Set by events that must never happen, and by unhandled rejections. */
  broken: string | undefined;
  readonly log: string[] = [];
  private readonly bounds: Partial<LinkBounds>;

  constructor(readonly seed: number) {
    this.world = new SimWorld(seed);
    const { random } = this.world;
    const streams = random.chance(0.3) ? ['a', 'b'] : ['a'];
    const targetNames = random.chance(0.15) ? ['t', 'u'] : ['t'];
    const key = random.chance(0.2) ? random.bytes(32) : undefined;
    const bufferBytes = (96 + random.int(160)) * KiB;
    this.bounds = {
      bufferBytes,
      bufferBytesMax: bufferBytes * 1.25,
      spoolBytes: random.chance(0.3) ? 0 : (128 + random.int(512)) * KiB,
      spoolFileBytes: 64 * KiB,
      inFlightBytes: 64 * KiB,
      foldBytes: bufferBytes / 3,
      syncQueueBytes: 64 * KiB,
      foldPartBytes: 12 * KiB,
      widenAfterMs: 1500,
      keepAliveMs: 1000,
      backoffMsMin: 100,
      backoffMsMax: 2000,
    };
    // Guests that lived before, of whose disks the targets have an older copy.
    const seeded = seed % 5 === 0;
    const specs = streams.map((stream, index) =>
      this.diskSpecs(stream, stream, streams.length === 1 ? 3 + random.int(2) : 2 - (index % 2)),
    );
    if (streams.length > 1) specs[1]?.push(...this.diskSpecs('b2', 'b', 1));
    const declaration: GroupDeclaration = {
      name: this.groupName,
      streams,
      disks: specs.flatMap((disks, index) =>
        disks.map(({ name, sizeBytes }) => ({
          ...{ name, sizeBytes, stream: streams[index]! },
          ...(seeded ? { seed: seedPath(name) } : {}),
        })),
      ),
      settings: {
        checkpointIntervalMs: 1000,
        // Half of the seeds: about what a barrier takes (see Faults), so that holds are broken often.
        holdMsMax: seed % 2 === 0 ? 100 : 12,
        tiers: [
          { untilAgeMs: 7000, everyMs: 0 },
          { untilAgeMs: 20_000, everyMs: 4000 },
          { untilAgeMs: 35_000, everyMs: 12_000 },
        ],
        namedAgeMs: 15_000,
        hardLimitBytes: random.chance(0.2) ? 8 * 1024 * KiB : 64 * 1024 * KiB,
        segmentBytes: (48 + random.int(200)) * KiB,
        upkeepIntervalMs: 500 + random.int(700),
        scratchLimitBytes: 2048 * KiB,
        scrubPassDays: 10 / 86_400,
        rollbackKeepHours: 8 / 3600,
        manifestBytes: (8 + random.int(60)) * KiB,
      },
    };
    const events = (host: string, process: SimProcess): EventSink => this.sink(host, process);
    for (const name of targetNames) {
      this.targets.push(new TargetHost(this.world.addHost(name), declaration, events, key, this.aliases, this.seeds));
    }
    for (const [index, stream] of streams.entries()) {
      const source = this.makeSource(stream, stream, specs[index]!, targetNames);
      this.sources.push(source);
      if (seeded) this.seedDisks(source);
    }
    this.checks = new Checks(this);
    this.faults = new Faults(this);
    this.actions = new Actions(this);
  }

  makeSource(host: string, agent: string, specs: readonly SimDiskSpec[], targets: readonly string[]): SourceHost {
    const events = (name: string, process: SimProcess): EventSink => this.sink(name, process);
    return new SourceHost(
      this.world,
      this.world.addHost(host),
      this.groupName,
      agent,
      specs,
      targets,
      this.model,
      events,
      this.bounds,
    );
  }

  /** Some life before the first start; the seed is a copy from its middle, or a part of it. */
  private seedDisks(source: SourceHost): void {
    const { random } = this.world;
    for (const { spec, guest } of source.live) {
      const write = (): void => {
        const count = 1 + random.int(200);
        const first = random.int(guest.bytes.length / sectorBytes - count);
        const id = this.model.takeId();
        const written = spec.model.issue(id, false, first * sectorBytes, count * sectorBytes);
        guest.bytes.set(stampedBytes(id, count * sectorBytes), first * sectorBytes);
        written.acknowledge();
      };
      for (let count = 0; count < 5; count++) write();
      const shorter = random.chance(0.3) ? sectorBytes * random.int(100) : 0;
      this.seeds.set(seedPath(spec.name), guest.bytes.slice(0, guest.bytes.length - shorter));
      for (let count = 0; count < 2; count++) write();
    }
  }

  note(text: string): void {
    this.log.push(`${this.world.nowMs.toFixed(1)} ${text}`);
  }

  /** Runs the seed's life: guests, faults and actions until enough has happened. */
  async live(): Promise<void> {
    const { world } = this;
    for (const target of this.targets) void target.start();
    for (const source of this.sources) {
      source.start();
      source.startGuests(world.random.fork(), () => 75);
    }
    this.checks.start();
    this.faults.start();
    this.actions.start();
    const enough = (): boolean =>
      this.broken !== undefined ||
      (world.nowMs >= lifeMsMin &&
        this.writes() >= writesWanted &&
        this.faults.count >= faultsWanted &&
        this.actions.satisfied) ||
      world.nowMs >= lifeMsMax;
    await world.run({ until: enough });
    this.raise();
  }

  /** Everything heals; then all that was acknowledged must be there. */
  async settle(): Promise<void> {
    this.faults.stop();
    await this.actions.stop();
    await this.faults.heal();
    await this.checks.final();
    this.raise();
  }

  raise(): void {
    if (this.broken !== undefined) throw new Error(this.broken);
  }

  result(failure: string | undefined): SeedResult {
    this.counts.writes = this.writes();
    this.counts.faults = this.faults.count;
    return {
      seed: this.seed,
      failure,
      fingerprint: this.world.scheduler.fingerprint,
      counts: this.counts,
      virtualMs: this.world.nowMs,
      log: this.log,
    };
  }

  private writes(): number {
    return this.sources.reduce((sum, source) => sum + source.writeCount, 0);
  }

  diskSpec(name: string, agent: string): SimDiskSpec {
    const { random } = this.world;
    const sizeBytes = (128 + random.int(320)) * KiB + (random.chance(0.5) ? 512 : 0);
    const kind = random.chance(0.7) ? 'mirror' : 'in-path';
    return { name, sizeBytes, kind, model: this.model.addDisk(name, agent, sizeBytes) };
  }

  private diskSpecs(prefix: string, agent: string, count: number): SimDiskSpec[] {
    return Array.from({ length: count }, (_, index) => this.diskSpec(`${prefix}-${index}`, agent));
  }

  private sink(host: string, process: SimProcess): EventSink {
    return {
      emit: (code, fields) => {
        if (!process.alive) return;
        this.note(`${host}: ${code} ${JSON.stringify(fields)}`);
        this.observe(host, code, fields);
      },
    };
  }

  private observe(host: string, code: string, fields: Readonly<Record<string, unknown>>): void {
    const { counts } = this;
    if (code === 'replica-damaged' && !this.checks.bitsTurned)
      this.broken ??= `${host}: the scrub calls a whole chunk damaged`;
    else if (code === 'replica-scrubbed') counts.scrubPasses++;
    else if (code === 'replica-repaired') counts.chunksRepaired++;
    else if (code === 'promoted') counts.promotions++;
    else if (code === 'compacted') counts.compactions++;
    else if (code === 'sync-begun') {
      counts.syncs++;
      if (fields['kind'] === 'delta') counts.deltaSyncs++;
      if (fields['kind'] === 'bitmap') counts.bitmapSyncs++;
    } else if (code === 'retreat-bitmap') counts.retreats++;
    else if (code === 'disk-seeded') counts.disksSeeded++;
    else if (code === 'journal-poisoned') counts.poisonings++;
    else if (code === 'history-dropped') this.checks.historyDropped(host);
    else if (code === 'durable-regression') this.broken ??= `${host}: durable-regression ${JSON.stringify(fields)}`;
  }
}

function seedPath(disk: string): string {
  return `/data/seed-${disk}.raw`;
}
