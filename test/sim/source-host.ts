/** A source agent of the simulation, and the guests whose disks it captures. */
import { InPathExport } from '../../agent/src/capture/in-path-export.js';
import { MirrorExport } from '../../agent/src/capture/mirror-export.js';
import { SourceGroup } from '../../agent/src/capture/source-group.js';
import type { EventSink } from '../../agent/src/core/events.js';
import { linkBounds, type LinkBounds } from '../../agent/src/link/environment.js';
import type { ExportBackend } from '../../agent/src/nbd/backend.js';
import type { BlockDevice } from '../../agent/src/nbd/block-device.js';
import type { Payload } from '../../agent/src/nbd/payload.js';
import { definitionHash } from '../../agent/src/stream/definitions.js';
import { GuestDisk } from './device.js';
import { sectorBytes, stampedBytes, type DiskModel, type GroupModel } from './model.js';
import { streamPort } from './target-host.js';
import type { SimHost, SimProcess } from './world/sim-host.js';
import type { SimRandom } from './world/sim-random.js';
import type { SimWorld } from './world/sim-world.js';

export interface SimDiskSpec {
  readonly name: string;
  readonly sizeBytes: number;
  readonly kind: 'mirror' | 'in-path';
  readonly model: DiskModel;
}

/** A disk of the guests, for ever at its place in the host's list. */
interface Disk {
  readonly spec: SimDiskSpec;
  readonly guest: GuestDisk;
  removed: boolean;
  /** In the agent that runs: index in its group, and what its guest writes to. */
  index: number;
  backend: ExportBackend | undefined;
}

interface Pending {
  readonly disk: number;
  readonly first: number;
  readonly count: number;
  readonly id: number;
  readonly zero: boolean;
  readonly settle: { acknowledge(): void; dropped(): void };
}

/** Counted; scribbled over at the last release, so that a use after it shows. */
class GuestPayload implements Payload {
  private references = 1;
  constructor(readonly bytes: Uint8Array) {}
  retain(): void {
    if (this.references === 0) throw new Error('a payload was retained after its release');
    this.references++;
  }
  release(): void {
    if (this.references === 0) throw new Error('a payload was released too often');
    if (--this.references === 0) this.bytes.fill(0xee);
  }
}

export class SourceHost {
  group: SourceGroup | undefined;
  private readonly disks: Disk[];
  writeCount = 0;
  /** False: the guests rest. */
  running = true;
  /** Hot set: most writes fall into so many sectors from the start of the disk; undefined: anywhere. */
  hotSectors: number | undefined;
  private random: SimRandom | undefined;
  private meanPauseMs: () => number = () => 0;
  /** Its guests moved away: it is never started again. */
  retired = false;
  private readonly pending = new Set<Pending>();

  constructor(
    private readonly world: SimWorld,
    readonly host: SimHost,
    readonly groupName: string,
    /** Name in its certificate. */
    readonly agent: string,
    specs: readonly SimDiskSpec[],
    private readonly targets: readonly string[],
    private readonly model: GroupModel,
    private readonly events: (host: string, process: SimProcess) => EventSink,
    private readonly bounds: Partial<LinkBounds>,
  ) {
    this.disks = specs.map((spec) => this.diskOf(spec));
    host.onDeath = () => this.died();
  }

  /** The disks of its guests now. */
  get live(): readonly { readonly spec: SimDiskSpec; readonly guest: GuestDisk }[] {
    return this.disks.filter(({ removed }) => !removed);
  }

  private diskOf(spec: SimDiskSpec): Disk {
    return { spec, guest: new GuestDisk(this.world, spec.sizeBytes), removed: false, index: -1, backend: undefined };
  }

  start(): void {
    const process = this.host.start();
    const { clock, random, storage, dialer } = process;
    this.resolveInPath();
    const live = this.disks.filter(({ removed }) => !removed);
    const devices = live.map(({ guest }) => guest.attach(process));
    const events = this.events(this.host.name, process);
    const group = new SourceGroup({
      name: this.groupName,
      agent: this.agent,
      disks: live.map(({ spec, guest }, index) => ({
        name: spec.name,
        sizeBytes: guest.bytes.length,
        reader: devices[index],
      })),
      clock,
      random,
      events,
    });
    this.group = group;
    for (const [index, disk] of live.entries()) this.serve(group, disk, index, devices[index]!);
    this.redefine(process);
    for (const target of this.targets) {
      const link = group.addLink({
        target,
        address: `${target}:${streamPort}`,
        directory: `/data/links/${target}`,
        storage,
        dialer,
        clock,
        random,
        events,
        scheduler: { yield: () => new Promise((resolve) => clock.after(0, resolve)) },
        compressor: { compress: (raw) => raw },
        cpuIdleShare: () => 0,
        software: 'simulation',
        bounds: linkBounds(this.bounds),
      });
      const mark = link.mark.bind(link);
      link.mark = (request) => {
        const given = mark(request);
        if (given !== undefined && process.alive) this.model.marked(given.id, this.agent);
        return given;
      };
    }
  }

  private serve(group: SourceGroup, disk: Disk, index: number, device: BlockDevice): void {
    const mirror = disk.spec.kind === 'mirror';
    disk.index = index;
    disk.backend = mirror ? new MirrorExport(group, index) : new InPathExport(group, index, device);
  }

  /** Guests write until told to stop; called once. */
  startGuests(random: SimRandom, meanPauseMs: () => number): void {
    this.random = random;
    this.meanPauseMs = meanPauseMs;
    for (const index of this.disks.keys()) this.guestLoop(index, random.fork(), meanPauseMs);
  }

  /** A disk is plugged in while the guests run. */
  addDisk(spec: SimDiskSpec): void {
    const disk = this.diskOf(spec);
    this.disks.push(disk);
    const { process } = this.host;
    if (process !== undefined && this.group !== undefined) {
      const device = disk.guest.attach(process);
      const index = this.group.addDisk({ name: spec.name, sizeBytes: spec.sizeBytes, reader: device });
      this.serve(this.group, disk, index, device);
    }
    if (this.random !== undefined) this.guestLoop(this.disks.length - 1, this.random.fork(), this.meanPauseMs);
  }

  growDisk(name: string, sizeBytes: number): void {
    const disk = this.disks.find(({ spec, removed }) => spec.name === name && !removed);
    if (disk === undefined) return;
    disk.spec.model.grow(sizeBytes);
    disk.guest.grow(sizeBytes);
    if (this.host.process !== undefined) this.group?.growDisk(disk.index, sizeBytes);
  }

  removeDisk(name: string): void {
    const disk = this.disks.find(({ spec, removed }) => spec.name === name && !removed);
    if (disk === undefined) return;
    disk.removed = true;
    disk.spec.model.leave();
    if (this.host.process !== undefined) this.group?.removeDisk(disk.index);
  }

  /** A person changes the VM's hardware now and then: marks name the definition of their time. */
  private redefine(process: SimProcess): void {
    if (!process.alive) return;
    const memoryMiB = 512 + Math.floor(this.world.nowMs / 7000);
    const content = new TextEncoder().encode(
      JSON.stringify({
        name: this.agent,
        uuid: '7a0e1c7e-55aa-4d6f-9b43-0c9a4be2a1f0',
        domainXml: `<domain><memory unit='MiB'>${memoryMiB}</memory></domain>`,
        disks: this.live.map(({ spec }) => ({ target: spec.name, disk: spec.name })),
        files: [],
      }),
    );
    this.group?.setDefinition(this.agent, { hash: definitionHash(content), content });
    process.clock.after(3500, () => this.redefine(process));
  }

  /** True when a guest's write has no answer yet. */
  get busy(): boolean {
    return this.pending.size > 0;
  }

  /** Its guests live elsewhere from now on, on a copy of the disks: what those show happened. */
  retire(): void {
    this.running = false;
    this.retired = true;
    this.resolveInPath();
    for (const pending of [...this.pending]) this.end(pending);
  }

  private guestLoop(index: number, random: SimRandom, meanPauseMs: () => number): void {
    const step = (): void => {
      if (this.retired || this.disks[index]!.removed) return;
      if (this.running) {
        const burst = random.chance(0.1) ? 1 + random.int(12) : 1;
        for (let count = 0; count < burst; count++) this.write(index, random);
      }
      this.world.scheduler.after(random.float() * 2 * meanPauseMs(), step);
    };
    this.world.scheduler.after(random.float() * 10, step);
  }

  private write(index: number, random: SimRandom): void {
    const { spec, guest } = this.disks[index]!;
    const alive = this.host.process !== undefined;
    if (spec.kind === 'in-path' && !alive) return;
    const total = guest.bytes.length / sectorBytes;
    const count = Math.min(total, 1 + (random.chance(0.05) ? random.int(160) : random.int(12)));
    const within = this.hotSectors !== undefined && random.chance(0.95) ? Math.min(this.hotSectors, total) : total;
    const first = random.int(Math.max(1, within - count));
    for (const other of this.pending) {
      if (other.disk === index && first < other.first + other.count && other.first < first + count) return;
    }
    this.writeCount++;
    const zero = random.chance(0.12);
    const id = this.model.takeId();
    const offsetBytes = first * sectorBytes;
    const lengthBytes = count * sectorBytes;
    const settle = spec.model.issue(id, zero, offsetBytes, lengthBytes);
    const pending: Pending = { disk: index, first, count, id, zero, settle };
    this.pending.add(pending);
    const bytes = zero ? new Uint8Array(lengthBytes) : stampedBytes(id, lengthBytes);
    if (spec.kind === 'mirror') {
      // The hypervisor writes its own disk first.
      guest.bytes.set(bytes, offsetBytes);
      if (!alive) this.end(pending);
      else if (random.chance(0.7)) this.submit(index, pending, bytes, random);
      else this.world.scheduler.after(random.float() * 3, () => this.submitLater(index, pending, bytes, random));
      return;
    }
    this.submit(index, pending, bytes, random);
  }

  private submitLater(index: number, pending: Pending, bytes: Uint8Array, random: SimRandom): void {
    if (!this.pending.has(pending)) return;
    if (this.host.process === undefined) this.end(pending);
    else this.submit(index, pending, bytes, random);
  }

  private submit(index: number, pending: Pending, bytes: Uint8Array, random: SimRandom): void {
    const backend = this.disks[index]!.backend!;
    const offsetBytes = pending.first * sectorBytes;
    const payload = new GuestPayload(bytes);
    let answer: Promise<void> | undefined;
    if (!pending.zero) answer = backend.write(offsetBytes, payload, random.chance(0.1));
    else if (random.chance(0.5)) answer = backend.zero(offsetBytes, bytes.length, true, false);
    else answer = backend.trim(offsetBytes, bytes.length, false);
    const { process } = this.host;
    const done = (): void => {
      payload.release();
      if (process?.alive === true) this.end(pending);
    };
    if (answer === undefined) done();
    else void answer.then(done);
  }

  private end(pending: Pending): void {
    if (this.pending.delete(pending)) pending.settle.acknowledge();
  }

  /** Mirrored guests go on without the agent: what they wrote is on their own disk. In-path guests wait. */
  private died(): void {
    this.group = undefined;
    for (const pending of [...this.pending]) {
      if (this.disks[pending.disk]!.spec.kind === 'mirror') this.end(pending);
    }
  }

  /** After a death the disk itself tells which of the unanswered in-path writes happened. */
  private resolveInPath(): void {
    for (const pending of [...this.pending]) {
      const { spec, guest } = this.disks[pending.disk]!;
      if (spec.kind !== 'in-path') continue;
      const { bytes } = guest;
      const at = pending.first * sectorBytes;
      const word = new DataView(bytes.buffer).getUint32(at, true);
      const happened = pending.zero
        ? bytes.subarray(at, at + pending.count * sectorBytes).every((byte) => byte === 0)
        : word === pending.id;
      if (happened) this.end(pending);
      else {
        this.pending.delete(pending);
        pending.settle.dropped();
      }
    }
  }
}
