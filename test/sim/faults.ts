/** What breaks, when, and how it heals; all drawn from the seed. */
import type { ClusterView } from './cluster-view.js';
import type { SourceHost } from './source-host.js';
import type { TargetHost } from './target-host.js';
import type { CrashKind } from './world/sim-host.js';

/** Beside several sources one message may take as long as a hold may (see Cluster): barriers break. */
const healthySpeed = { latencyMs: 2, jitterMs: 1, bytesPerSecond: 20_000_000 };
const unevenSpeed = { ...healthySpeed, jitterMs: 6 };

export class Faults {
  count = 0;
  private stopped = false;

  constructor(private readonly cluster: ClusterView) {}

  private get healthy(): typeof healthySpeed {
    return this.cluster.sources.length > 1 && !this.stopped ? unevenSpeed : healthySpeed;
  }

  start(): void {
    this.everyLinkHealthy();
    this.later(4000, 3000, () => this.next());
  }

  stop(): void {
    this.stopped = true;
  }

  /** Ends every fault, starts what is dead. */
  async heal(): Promise<void> {
    const { world, sources, targets } = this.cluster;
    for (const { host } of [...sources, ...targets]) {
      host.disk.clearFaults();
      host.disk.capacityBytes = Infinity;
      host.disk.slowdown = 1;
      host.disk.onIo = undefined;
      host.disk.unhang();
    }
    this.everyLinkHealthy();
    await world.run({ untilMs: world.nowMs + 5000 });
    for (const target of targets) if (target.host.process === undefined) void target.start();
    for (const source of sources) if (source.host.process === undefined) source.start();
  }

  private next(): void {
    if (this.stopped) return;
    const { random } = this.cluster.world;
    const fault = random.pick(this.menu());
    this.count++;
    fault();
    this.later(1000, 5000, () => this.next());
  }

  private menu(): (() => void)[] {
    const { world, targets, sources } = this.cluster;
    const { random } = world;
    const target = random.pick(targets);
    const source = random.pick(sources);
    return [
      () => this.crashTarget(target, 'kill'),
      () => this.crashTarget(target, 'power'),
      () => this.crashTarget(target, 'power'),
      () => this.crashSource(source, random.pick(['kill', 'power'] as const)),
      () => this.crashAfterIo(target),
      () => this.crashAfterIo(target),
      () => this.crashInWrite(target),
      () => this.crashInWrite(target),
      () => this.cutConnection(),
      () => this.cutConnection(),
      () => this.partition(source, target),
      () => this.slowLink(source, target),
      () => this.slowLink(source, target),
      () => this.failTarget(target),
      () => this.failTarget(target),
      () => this.fillTarget(target),
      () => this.failSource(source),
      () => this.slowDisk(target),
      () => this.wallJump(source),
    ];
  }

  private crashTarget(target: TargetHost, kind: CrashKind): void {
    this.cluster.note(`fault: ${kind} ${target.host.name}`);
    if (kind === 'kill') target.host.kill();
    else target.host.powerCut();
    target.group = undefined;
    this.restartTarget(target);
  }

  private restartTarget(target: TargetHost): void {
    this.later(50, 2500, () => {
      if (target.host.process === undefined) void target.start();
    });
  }

  private crashSource(source: SourceHost, kind: CrashKind): void {
    this.cluster.note(`fault: ${kind} ${source.host.name}`);
    if (kind === 'kill') source.host.kill();
    else source.host.powerCut();
    this.later(50, 3000, () => {
      if (source.host.process === undefined && !source.retired) source.start();
    });
  }

  private crashAfterIo(target: TargetHost): void {
    const { random } = this.cluster.world;
    if (target.host.process === undefined) return;
    const kind = random.pick(['kill', 'power', 'power'] as const);
    this.cluster.note(`fault: ${kind} ${target.host.name} after an I/O`);
    target.host.onDeath = () => {
      target.host.onDeath = undefined;
      target.group = undefined;
      this.restartTarget(target);
    };
    target.host.crashAfterIo(1 + random.int(60), kind);
  }

  /** Power goes between a write of something that matters and its fdatasync. */
  crashInWrite(target: TargetHost): void {
    const { random } = this.cluster.world;
    const { host } = target;
    if (host.process === undefined) return;
    const part = random.pick(['/segments/', '/segments/', '/views/', '/views/', '/replica/', '/manifest']);
    this.cluster.note(`fault: power ${host.name} after a write of ${part}`);
    let left = 1 + random.int(3);
    host.onDeath = () => {
      host.onDeath = undefined;
      target.group = undefined;
      this.restartTarget(target);
    };
    host.disk.onIo = (kind, path) => {
      if (kind !== 'write' || !path.includes(part) || --left > 0) return;
      host.disk.onIo = undefined;
      host.powerCut();
    };
  }

  private cutConnection(): void {
    const { world } = this.cluster;
    const pairs = world.network.pairs();
    if (pairs.length === 0) return;
    const pair = world.random.pick(pairs);
    this.cluster.note(`fault: cut ${pair.dialerHost}-${pair.listenerHost}`);
    if (world.random.chance(0.3))
      world.network.cut(pair, { silentHost: world.random.pick([pair.dialerHost, pair.listenerHost]), silentMs: 8000 });
    else world.network.cut(pair);
  }

  private partition(source: SourceHost, target: TargetHost): void {
    const { network } = this.cluster.world;
    this.cluster.note(`fault: partition ${source.host.name}-${target.host.name}`);
    network.partition(source.host.name, target.host.name);
    this.later(500, 7000, () => network.heal(source.host.name, target.host.name));
  }

  private slowLink(source: SourceHost, target: TargetHost): void {
    const { network, random } = this.cluster.world;
    const bytesPerSecond = 8000 + random.int(60_000);
    this.cluster.note(`fault: ${bytesPerSecond} B/s ${source.host.name}-${target.host.name}`);
    network.setSpeed(source.host.name, target.host.name, { ...this.healthy, bytesPerSecond });
    if (random.chance(0.6)) source.hotSectors = 8 + random.int(48);
    this.later(2000, 8000, () => {
      network.setSpeed(source.host.name, target.host.name, this.healthy);
      source.hotSectors = undefined;
    });
  }

  private failTarget(target: TargetHost): void {
    const { random } = this.cluster.world;
    const kind = random.pick(['datasync', 'datasync', 'write', 'syncDirectory', 'open', 'rename'] as const);
    this.cluster.note(`fault: ${target.host.name} fails a ${kind}`);
    target.host.disk.failNext({ kind, skipCount: random.int(10) });
  }

  private fillTarget(target: TargetHost): void {
    const { disk } = target.host;
    this.cluster.note(`fault: ${target.host.name} is full`);
    disk.capacityBytes = disk.tree.capacityBytes - disk.tree.freeBytes + this.cluster.world.random.int(100_000);
    this.later(500, 4000, () => (disk.capacityBytes = Infinity));
  }

  private failSource(source: SourceHost): void {
    const { random } = this.cluster.world;
    const kind = random.pick(['write', 'read', 'datasync', 'open'] as const);
    this.cluster.note(`fault: ${source.host.name} fails a ${kind}`);
    source.host.disk.failNext({ kind, skipCount: random.int(5) });
  }

  private slowDisk(target: TargetHost): void {
    const { disk } = target.host;
    const { random } = this.cluster.world;
    this.cluster.note(`fault: ${target.host.name} is slow`);
    if (random.chance(0.3)) disk.hang();
    else disk.slowdown = 20 + random.int(200);
    this.later(500, 2500, () => {
      disk.slowdown = 1;
      disk.unhang();
    });
  }

  private wallJump(source: SourceHost): void {
    const { random } = this.cluster.world;
    this.cluster.note(`fault: clock of ${source.host.name} jumps`);
    source.host.wallOffsetMs += random.between(-300, 300);
  }

  private everyLinkHealthy(): void {
    const { world, sources, targets } = this.cluster;
    for (const source of sources) {
      source.hotSectors = undefined;
      for (const target of targets) {
        world.network.heal(source.host.name, target.host.name);
        world.network.setSpeed(source.host.name, target.host.name, this.healthy);
      }
    }
  }

  private later(leastMs: number, spreadMs: number, run: () => void): void {
    const { world } = this.cluster;
    world.scheduler.after(leastMs + world.random.float() * spreadMs, run);
  }
}
