/**
 * Seeds: the replica of a new group's disk is made from a raw file that is here already (the old source's disk, when a
 * group is reversed), so that the first sync sends only what differs. The file is read and never changed.
 *
 * The manifest's `disk` record names the file until the image holds all of it, durably; no source is admitted before that.
 * A crash goes on: what is in the image already is found by its digests. The history of the group begins, as always,
 * with the first complete checkpoint.
 */
import type { Timer } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { StorageFile } from '../core/storage.js';
import { chunkBytes, chunkDigest, digestsEqual } from '../replica/digest.js';
import type { ReplicaDisk } from '../replica/replica-disk.js';
import type { GroupContext } from './context.js';
import type { DiskRecord } from './manifest.js';

const stepBytes = 16 * chunkBytes;
/** Digests in memory before they are written. */
const settleBytes = 256 * stepBytes;
const retryMs = 30_000;

export interface SeedProgress {
  readonly disk: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Wall clock. */
  readonly startedMs: number;
  readonly bytesPerSecond: number;
}

export class Seeding {
  /** Of the disk that is being made. */
  progress: SeedProgress | undefined;
  /** Why the last attempt failed; it is repeated. */
  failure: string | undefined;
  private stopped = false;
  private running: Promise<void> | undefined;
  private timer: Timer | undefined;

  constructor(private readonly context: GroupContext) {}

  /** True until every image holds its seed. */
  get active(): boolean {
    return this.seeded().length > 0;
  }

  /** Throws `seeding` while it is under way. */
  refuseSource(): void {
    if (!this.active) return;
    const { progress, failure } = this;
    const share = progress === undefined ? 0 : Math.floor((progress.doneBytes * 100) / progress.totalBytes);
    throw new TidemarkError(
      'seeding',
      failure === undefined
        ? `The replica of ${progress?.disk ?? 'a disk'} is being made from its seed: ${share} %.`
        : `The replica cannot be made from its seed: ${failure}`,
    );
  }

  /** Goes on until all is done, or `stop`. */
  start(): void {
    if (!this.active || this.stopped) return;
    this.running = this.run().catch((error: unknown) => {
      if (!isTidemarkError(error)) throw error;
      if (this.stopped) return;
      this.failure = error.message;
      this.context.events.emit('seed-failed', { group: this.context.name, code: error.code, error: error.message });
      this.timer = this.context.clock.after(retryMs, () => this.start());
    });
  }

  async stop(): Promise<void> {
    this.stopped = true;
    this.timer?.cancel();
    await this.running;
  }

  private seeded(): DiskRecord[] {
    return this.context.manifest.state.diskChanges.filter(({ seed, removed }) => seed !== undefined && !removed);
  }

  private async run(): Promise<void> {
    for (const record of this.seeded()) {
      const { seed, ...done } = record;
      if (seed === undefined) continue;
      const file = await this.context.storage.open(seed, 'read');
      try {
        await this.fill(record, seed, file);
      } finally {
        await file.close();
      }
      if (this.stopped) return;
      await this.context.manifest.append(done);
      this.failure = undefined;
      this.progress = undefined;
      this.context.events.emit('disk-seeded', { group: this.context.name, disk: record.name, seed });
    }
  }

  private async fill({ index, name, sizeBytes }: DiskRecord, seed: string, file: StorageFile): Promise<void> {
    const { replica } = this.context.replicas;
    const cloned = (await this.context.replicas.isEmpty(index)) && (await replica.clone(index, seed));
    const disk = replica.disk(index);
    const { clock } = this.context;
    const startedMs = clock.wallMs();
    const sinceMs = clock.monotonicMs();
    for (let at = 0; at < sizeBytes && !this.stopped; at += stepBytes) {
      const bytesPerSecond = (at * 1000) / Math.max(1, clock.monotonicMs() - sinceMs);
      this.progress = { disk: name, doneBytes: at, totalBytes: sizeBytes, startedMs, bytesPerSecond };
      const bytes = new Uint8Array(Math.min(stepBytes, sizeBytes - at));
      await file.read(bytes, at);
      for (let from = 0; from < bytes.length; from += chunkBytes) {
        const chunk = bytes.subarray(from, from + chunkBytes);
        if (cloned) await disk.adopt((at + from) / chunkBytes, chunk);
        else await copyChunk(disk, at + from, chunk);
      }
      if (cloned && at % settleBytes === 0) await disk.settle();
    }
    await disk.flushBase();
  }
}

async function copyChunk(disk: ReplicaDisk, offsetBytes: number, chunk: Uint8Array): Promise<void> {
  const known = await disk.digestsOf(offsetBytes / chunkBytes, 1);
  if (!digestsEqual(known, chunkDigest(chunk))) await disk.applyBase(offsetBytes, chunk);
}
