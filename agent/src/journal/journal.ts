/** The journal of a group: opens what is there, takes blocks, gives cuts. See SEGMENT.md for the format. */
import type { Block } from '../block/block.js';
import type { Clock } from '../core/clock.js';
import { invariant } from '../core/invariant.js';
import { Mutex } from '../core/mutex.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { ManifestLog, ManifestRecord } from '../target/manifest-records.js';
import { BodyReader, type BodySource } from './body-reader.js';
import { compactSegments } from './compact.js';
import { createContext, type JournalContext } from './context.js';
import { Cut, type CutLayer } from './cut.js';
import { checkKey } from './encryption.js';
import { buildRun } from './entry.js';
import { reduceManifest } from './manifest-state.js';
import { isVectorWithin, type Vector } from './position.js';
import { greatestFileId, recoverSegments } from './recovery.js';
import { SegmentList } from './segment-list.js';
import type { SegmentWriter } from './segment-writer.js';
import { verifyEntries } from './segment.js';
import type { Journal, JournalCut, JournalMark, JournalSyncMark, JournalUsage } from './types.js';
import { JournalWriter } from './writer.js';

export interface JournalOptions {
  readonly storage: Storage;
  readonly clock?: Clock;
  readonly random: Random;
  /** The group's directory; the journal uses `segments/` and `index/` in it. */
  readonly directory: string;
  readonly groupUuid: string;
  /** 32 bytes: bodies are encrypted at rest. */
  readonly key?: Uint8Array | undefined;
  readonly manifest: ManifestLog;
  /** All records of the manifest, in order. */
  readonly records: readonly ManifestRecord[];
  /** A segment is sealed at this size; default 64 MiB. */
  readonly segmentBytes?: number | undefined;
  /** …or at this many records; default 131,072. */
  readonly segmentRecords?: number | undefined;
  /** Decoded bodies kept for reading; default 16 MiB. */
  readonly bodyCacheBytes?: number | undefined;
  /** Index pages kept; default 16 MiB. */
  readonly pageCacheBytes?: number | undefined;
}

/** Recovers the journal and opens it. Throws `journal-corrupt`, `encryption-key`, `format-version` or a storage error. */
export async function openJournal(options: JournalOptions): Promise<Journal> {
  const context = createContext({ ...options, uuid: options.groupUuid });
  const group = options.records.find((record) => record.type === 'group');
  if (group?.keyCheck !== undefined) checkKey(options.key, options.groupUuid, group.keyCheck);
  const state = reduceManifest(options.records);
  const lastId = Math.max(state.lastId, await greatestFileId(context));
  const { segments, last } = await recoverSegments(context, state, options.manifest);
  const list = new SegmentList(context);
  await list.open(segments);
  return new SegmentJournal(context, options.manifest, list, last, lastId + 1);
}

class SegmentJournal implements Journal {
  readonly #writer: JournalWriter;
  readonly #bodies: BodyReader;
  readonly #upkeep = new Mutex();
  readonly #durableHandlers: (() => void)[] = [];
  readonly #poisonedHandlers: ((error: Error) => void)[] = [];
  /** Run of a live segment for the last vector that cut it. */
  #liveCut: { writer: SegmentWriter; version: number; vector: string; layer: CutLayer } | undefined;
  #fruitless = new Set<string>();

  constructor(
    private readonly context: JournalContext,
    private readonly manifest: ManifestLog,
    private readonly list: SegmentList,
    last: Vector,
    nextId: number,
  ) {
    this.#bodies = new BodyReader(context);
    this.#writer = new JournalWriter(context, manifest, last, nextId, {
      durable: () => this.#durableHandlers.forEach((handler) => handler()),
      poisoned: (error) => this.#poisonedHandlers.forEach((handler) => handler(error)),
      sealed: (segment) => this.list.push(segment),
    });
  }

  get received(): Vector {
    return this.#writer.received;
  }

  get durable(): Vector {
    return this.#writer.durable;
  }

  get failure(): Error | undefined {
    return this.#writer.failure;
  }

  get pendingBytes(): number {
    return this.#writer.pendingBytes;
  }

  get usage(): JournalUsage {
    const usage = { bytes: 0, segmentCount: 0, recordCount: 0, checkpointCount: 0 };
    const add = (bytes: number, recordCount: number, checkpointCount: number): void => {
      usage.bytes += bytes;
      usage.segmentCount++;
      usage.recordCount += recordCount;
      usage.checkpointCount += checkpointCount;
    };
    for (const { fileBytes, entry, marks } of this.list.all) add(fileBytes, entry.recordCount, marks.length);
    for (const { durableBytes, content } of this.#writer.live)
      add(durableBytes, content.recordCount, content.marks.length);
    return usage;
  }

  append(block: Block, options?: { bodyElided?: boolean; owned?: boolean }): void {
    this.#writer.append(block, options);
  }

  abandon(stream: number): void {
    this.#writer.abandon(stream);
  }

  onDurable(handler: () => void): void {
    this.#durableHandlers.push(handler);
  }

  onPoisoned(handler: (error: Error) => void): void {
    this.#poisonedHandlers.push(handler);
  }

  flush(): Promise<void> {
    return this.#writer.flush();
  }

  marks(): readonly JournalMark[] {
    return [...this.list.all, ...this.#writer.live.map(({ content }) => content)].flatMap(({ marks }) => marks);
  }

  syncMarks(): readonly JournalSyncMark[] {
    return [...this.list.all, ...this.#writer.live.map(({ content }) => content)].flatMap(({ syncMarks }) => syncMarks);
  }

  async cut(vector: Vector): Promise<JournalCut> {
    // Synchronous up to list.cut: live segments and list are seen at one moment.
    const live = this.#writer.live;
    const liveLayers = live.flatMap((writer) => this.#liveLayer(writer, vector) ?? []);
    for (const { path } of live) this.list.references.take(path);
    const release = (paths: readonly string[]): void => {
      for (const path of paths) this.list.references.release(path);
      for (const { path } of live) this.list.references.release(path);
    };
    try {
      const { layers, paths, sources } = await this.list.cut(vector);
      for (const writer of live) sources.set(writer.id, writer);
      layers.unshift(...liveLayers.reverse());
      const sourceOf = (id: number): BodySource => {
        const source = sources.get(id);
        invariant(source !== undefined, `cut: segment ${id} is not part of it`);
        return source;
      };
      return new Cut({ vector, layers, sourceOf, bodies: this.#bodies, onRelease: () => release(paths) });
    } catch (error) {
      release([]);
      throw error;
    }
  }

  #liveLayer(writer: SegmentWriter, vector: Vector): CutLayer | undefined {
    const { content } = writer;
    if (content.heads.length === 0) return undefined;
    if (isVectorWithin(content.last, vector)) return { run: content.builder.run() };
    const key = JSON.stringify(vector);
    const known = this.#liveCut;
    if (known?.writer === writer && known.version === content.version && known.vector === key) return known.layer;
    const layer = { run: buildRun(writer.id, content.heads, vector) };
    this.#liveCut = { writer, version: content.version, vector: key, layer };
    return layer;
  }

  dropThrough(vector: Vector): Promise<void> {
    return this.#upkeep.run(async () => {
      // A prefix only: what lies before a segment that stays could otherwise cover something newer in the replica.
      const count = this.list.all.findIndex((segment) => !isVectorWithin(segment.entry.last, vector));
      await this.#drop(this.list.all.slice(0, count < 0 ? undefined : count).map((segment) => segment.id));
    });
  }

  dropAll(): Promise<void> {
    return this.#upkeep.run(async () => {
      await this.#writer.exclusively(async () => {
        await this.#writer.seal();
        await this.#drop(this.list.all.map((segment) => segment.id));
      });
    });
  }

  async #drop(removed: number[]): Promise<void> {
    if (removed.length === 0) return;
    await this.manifest.append({ type: 'segments-replaced', removed, added: [] });
    this.list.replace(removed, []);
    await this.list.references.settle();
  }

  compact(request: Parameters<Journal['compact']>[0]): ReturnType<Journal['compact']> {
    return this.#upkeep.run(() =>
      compactSegments({
        context: this.context,
        manifest: this.manifest,
        list: this.list,
        bodies: this.#bodies,
        nextId: () => this.#writer.nextId++,
        fruitless: this.#fruitless,
        syncMarks: this.syncMarks(),
        received: this.received,
        request,
      }),
    );
  }

  maintain(): Promise<boolean> {
    return this.#upkeep.run(() => this.list.levels.mergeOnce(this.list.all));
  }

  async verify(onProgress: (doneBytes: number, totalBytes: number) => void, signal: AbortSignal): Promise<void> {
    const parts = this.list.all.map((segment) => ({ source: segment as BodySource, bytes: segment.entry.validBytes }));
    for (const writer of this.#writer.live) parts.push({ source: writer, bytes: writer.durableBytes });
    const totalBytes = parts.reduce((sum, part) => sum + part.bytes, 0);
    for (const { source } of parts) this.list.references.take(source.path);
    let doneBytes = 0;
    try {
      for (const { source, bytes } of parts) {
        await verifyEntries(this.context, source, bytes, (entryBytes) => {
          signal.throwIfAborted();
          doneBytes += entryBytes;
          onProgress(doneBytes, totalBytes);
        });
      }
      onProgress(totalBytes, totalBytes);
    } finally {
      for (const { source } of parts) this.list.references.release(source.path);
    }
  }

  async close(): Promise<void> {
    await this.#upkeep.run(async () => undefined);
    await this.#writer.close();
    await this.list.references.settle();
    await this.context.files.close();
  }
}
