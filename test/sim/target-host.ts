/** A target agent of the simulation: one host with one group, started, crashed and started again. */
import { isTidemarkError } from '../../agent/src/core/errors.js';
import type { EventSink } from '../../agent/src/core/events.js';
import type { Storage } from '../../agent/src/core/storage.js';
import type { Connection, Listener } from '../../agent/src/core/transport.js';
import { disksAt } from '../../agent/src/target/disk-set.js';
import { TargetGroup, type GroupDeclaration, type GroupOptions } from '../../agent/src/target/group.js';
import type { Checkpoint } from '../../agent/src/target/manifest-records.js';
import { TargetSession } from '../../agent/src/target/session.js';
import type { SimHost, SimProcess } from './world/sim-host.js';

export const streamPort = 7441;

export class TargetHost {
  group: TargetGroup | undefined;
  /** Open or opening in this process; a failure to open is the oracle's to judge. */
  opening: Promise<TargetGroup | undefined> = Promise.resolve(undefined);
  openError: Error | undefined;
  private listener: Listener | undefined;

  constructor(
    readonly host: SimHost,
    private readonly declaration: GroupDeclaration,
    private readonly events: (host: string, process: SimProcess) => EventSink,
    private readonly key: Uint8Array | undefined,
    /** Names of hosts that present another host's certificate. */
    private readonly aliases: ReadonlyMap<string, string>,
    /** Content of the files that the declaration names as seeds. */
    private readonly seeds: ReadonlyMap<string, Uint8Array>,
  ) {}

  start(): Promise<TargetGroup | undefined> {
    const process = this.host.start();
    this.group = undefined;
    this.openError = undefined;
    this.opening = this.open(process);
    return this.opening;
  }

  private async open(process: SimProcess): Promise<TargetGroup | undefined> {
    const { storage, clock, random } = process;
    const directory = `/data/groups/${this.declaration.name}`;
    const options: GroupOptions = {
      storage,
      clock,
      random,
      events: this.events(this.host.name, process),
      directory,
      key: this.key,
      // As the agent does: closed and opened again in the same process.
      onFailed: () => this.reopen(process),
      views: { opened: () => undefined, closing: () => Promise.resolve(), clientCount: () => 0 },
    };
    for (;;) {
      try {
        const group = await this.openOrCreate(options);
        if (!process.alive) return undefined;
        this.group = group;
        break;
      } catch (error) {
        if (!process.alive) return undefined;
        // A disk that is full or slow to answer: an operator's service manager would start it again.
        if (isTidemarkError(error) && error.retry) {
          await new Promise<void>((resolve) => clock.after(1000, resolve));
          continue;
        }
        this.openError = error as Error;
        return undefined;
      }
    }
    const group = this.group;
    this.listener = process.listen(streamPort);
    this.listener.onConnection((connection) => {
      new TargetSession(this.renamed(connection), clock, () => group);
    });
    return group;
  }

  private reopen(process: SimProcess): void {
    const { group, listener } = this;
    this.group = undefined;
    process.clock.after(200, () => {
      void (async () => {
        await listener?.close();
        await group?.close();
        if (process.alive) this.opening = this.open(process);
      })();
    });
  }

  private async openOrCreate(options: GroupOptions): Promise<TargetGroup> {
    try {
      return await TargetGroup.open(options);
    } catch (error) {
      if (!isTidemarkError(error, 'group-unknown') && !isTidemarkError(error, 'storage-not-found')) throw error;
      await this.placeSeeds(options.storage);
      return TargetGroup.create(options, this.declaration);
    }
  }

  /** They lie there before anybody makes the group. */
  private async placeSeeds(storage: Storage): Promise<void> {
    await storage.makeDirectory('/data');
    for (const [path, bytes] of this.seeds) {
      await storage.remove(path);
      const file = await storage.open(path, 'create');
      await file.write(bytes, 0);
      await file.datasync();
      await file.close();
      await storage.syncDirectory('/data');
    }
  }

  private renamed(connection: Connection): Connection {
    const name = this.aliases.get(connection.peer.name);
    if (name === undefined) return connection;
    return new Proxy(connection, {
      get: (target, property) => {
        if (property === 'peer') return { ...target.peer, name };
        const value: unknown = Reflect.get(target, property, target);
        return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value;
      },
    });
  }
}

/** The bytes of every disk that a checkpoint has, read below any view. */
export async function imagesOf(group: TargetGroup, checkpoint: Checkpoint): Promise<Map<number, Uint8Array>> {
  const { journal, replicas, manifest } = group.context;
  const cut = await journal.cut(checkpoint.vector);
  try {
    const images = new Map<number, Uint8Array>();
    for (const disk of disksAt(manifest.state, checkpoint.vector)) {
      if (checkpoint.disksMissing.includes(disk.index)) continue;
      const bytes = new Uint8Array(disk.sizeBytes);
      await replicas.readAt(cut, disk.index, bytes, 0);
      images.set(disk.index, bytes);
    }
    return images;
  } finally {
    cut.release();
  }
}
