/**
 * What becomes of a captured change on one link. All of it is synchronous: a write has its sequence, or its place in
 * the bitmap, when `capture` returns.
 *
 * | mode | meaning |
 * |---|---|
 * | off | no incarnation yet: nothing is kept, because the sync that a new incarnation begins with reads everything, and capture is on before its first read |
 * | queue | changes get a sequence and wait in the queue |
 * | bitmap | retreat: what is queued stays and will be sent; changes only mark the map and consume no sequence |
 *
 * queue → bitmap when memory reaches its hard bound (the spool being full, slow or failing) or a fence stands;
 * bitmap → queue when the queue has drained: capture is on again first, then the sync range is opened.
 */
import {
  RecordKind,
  type CheckpointKind,
  type CheckpointMark,
  type DiskChange,
  type SyncMark,
} from '../block/record.js';
import { recordPayloadBytesMax } from '../block/block.js';
import { invariant } from '../core/invariant.js';
import { isPlanted } from '../core/planted.js';
import type { Payload } from '../nbd/payload.js';
import type { DigestsMessage, NeedMessage } from '../stream/digests.js';
import type { Welcome } from '../stream/messages.js';
import type { ByteRange } from './coverage.js';
import type { LinkBounds } from './environment.js';
import type { RecordQueue } from './record-queue.js';
import { dirtyChunkBytes } from './dirty-map.js';
import type { SyncDisk } from './sync-disk.js';
import type { SyncHost, SyncRunner } from './sync-runner.js';

/** A change of a disk that the guest made. */
export interface Change {
  /** Index in the source group's list. */
  readonly disk: number;
  readonly kind: typeof RecordKind.write | typeof RecordKind.zero | typeof RecordKind.discard;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Of a write: its bytes; retained by every link that queues it. */
  readonly payload?: Payload;
}

export interface MarkRequest {
  readonly id: string;
  readonly kind: CheckpointKind;
  readonly label?: string | undefined;
  readonly barrier?: string | undefined;
  readonly provisional?: boolean | undefined;
  readonly attributes?: Readonly<Record<string, unknown>> | undefined;
}

export interface GivenMark {
  readonly id: string;
  readonly sequence: number;
  readonly sourceTimeMs: number;
  /** Names of disks that were not complete. */
  readonly disksMissing: readonly string[];
}

export type CaptureMode = 'off' | 'queue' | 'bitmap';

export interface LinkCaptureOptions {
  readonly queue: RecordQueue;
  readonly bounds: LinkBounds;
  readonly disks: readonly SyncDisk[];
  /** Source time, milliseconds; never back. */
  readonly sourceTimeMs: () => number;
  /** The capture driver lost this disk: it is in no complete checkpoint until it was synced. */
  readonly isDetached: (disk: number) => boolean;
  readonly emit: (code: string, fields: Readonly<Record<string, unknown>>) => void;
  /** A record joined the open chunk: cheap, for every captured write. */
  readonly onQueued: () => void;
  /** A chunk was closed, or room was made. */
  readonly onChange: () => void;
  /** A disk became complete: place a mark. */
  readonly onSynced: () => void;
  readonly isConnected: () => boolean;
  readonly sendDigests: (message: DigestsMessage) => boolean;
  /** Nothing may pile up in the spool or the socket while a sync reads. */
  readonly hasSyncRoom: () => boolean;
}

const encoder = new TextEncoder();

export class LinkCapture implements SyncHost {
  private readonly options: LinkCaptureOptions;
  private sync: SyncRunner | undefined;
  mode: CaptureMode = 'off';
  retreatCount = 0;
  lastRetreatReason: string | undefined;
  syncReadErrors = 0;
  private skipOne = false;
  private recordsSinceMark = 0;

  constructor(options: LinkCaptureOptions) {
    this.options = options;
  }

  attach(sync: SyncRunner): void {
    this.sync = sync;
  }

  get runner(): SyncRunner {
    invariant(this.sync !== undefined, 'the sync runner is attached');
    return this.sync;
  }

  get capturing(): boolean {
    return this.mode === 'queue';
  }

  get hasRoom(): boolean {
    return this.options.queue.unsentBytes < this.options.bounds.syncQueueBytes && this.options.hasSyncRoom();
  }

  get connected(): boolean {
    return this.options.isConnected();
  }

  capture(change: Change): void {
    const { disk, kind, offsetBytes, lengthBytes, payload } = change;
    this.runner.captured(disk, offsetBytes, lengthBytes);
    const state = this.options.disks[disk] as SyncDisk;
    if (this.mode === 'off' || state.target === undefined) return;
    if (offsetBytes + lengthBytes > state.sizeBytes) {
      this.captureInside(change, state.sizeBytes - offsetBytes);
      return;
    }
    const bytes = payload?.bytes;
    if (this.mode === 'queue' && this.options.queue.memoryBytes + lengthIn(bytes) > this.options.bounds.bufferBytesMax)
      this.retreat('the buffer is full and the spool takes no more');
    if (this.mode === 'bitmap') {
      this.markDirty(state, offsetBytes, lengthBytes);
      return;
    }
    const { queue } = this.options;
    const { sealCount } = queue;
    const timeUs = this.options.sourceTimeMs() * 1000;
    if (bytes === undefined || payload === undefined) {
      queue.append({ kind, disk: state.target, offsetBytes, lengthBytes }, timeUs, 'data');
    } else {
      for (let at = 0; at < bytes.length; at += recordPayloadBytesMax) {
        const piece = bytes.subarray(at, at + recordPayloadBytesMax);
        payload.retain();
        const record = {
          kind,
          disk: state.target,
          offsetBytes: offsetBytes + at,
          lengthBytes: piece.length,
          bytes: piece,
          payload,
        };
        queue.append(record, timeUs, 'data');
      }
    }
    this.recordsSinceMark++;
    this.runner.covered(disk, offsetBytes, lengthBytes);
    if (queue.sealCount !== sealCount) this.options.onChange();
    else this.options.onQueued();
  }

  /** What lies in the part that the target knows; the rest is synced when it knows that, too. */
  private captureInside(change: Change, lengthBytes: number): void {
    if (lengthBytes <= 0) return;
    const { payload } = change;
    if (payload === undefined) this.capture({ ...change, lengthBytes });
    else {
      const bytes = payload.bytes.subarray(0, lengthBytes);
      const inside = { bytes, retain: () => payload.retain(), release: () => payload.release() };
      this.capture({ ...change, lengthBytes, payload: inside });
    }
  }

  /** A write failed on the disk itself: its range holds nobody knows what, and is read and sent again. */
  contentUnknown(disk: number, offsetBytes: number, lengthBytes: number): void {
    this.runner.captured(disk, offsetBytes, lengthBytes);
    const state = this.options.disks[disk] as SyncDisk;
    if (this.mode === 'off' || state.target === undefined) return;
    state.dirty.mark(offsetBytes, lengthBytes);
    if (this.mode !== 'queue') return;
    this.runner.open(disk, 'bitmap');
    this.runner.pump();
    this.options.onChange();
  }

  /** The target's copy of these chunks is damaged: they are read and sent again. Not without something to read. */
  repair({ disk, firstChunk, count, bits }: NeedMessage): void {
    const index = this.options.disks.findIndex((each) => each.target === disk && !each.removed);
    const state = this.options.disks[index];
    if (this.mode === 'off' || state === undefined) return;
    if (state.reader === undefined) {
      this.options.emit('sync-unavailable', { disk: state.name });
      return;
    }
    for (let chunk = firstChunk; chunk < Math.min(firstChunk + count, state.dirty.chunkCount); chunk++) {
      const at = chunk - firstChunk;
      if (((bits[at >> 3] as number) & (1 << (at & 7))) !== 0) state.dirty.mark(chunk * dirtyChunkBytes, 1);
    }
    if (state.dirty.isEmpty || this.mode !== 'queue') return;
    this.options.emit('replica-repair', { disk: state.name, firstChunk, count });
    this.runner.open(index, 'bitmap');
    this.runner.pump();
    this.options.onChange();
  }

  /**
   * The capture driver has the disk (again). `missed`: every range that was written unseen, to be read again; undefined:
   * nobody knows, all of it is compared. `untouched`: nothing of it was ever captured or read before.
   */
  attached(disk: number, missed: readonly ByteRange[] | undefined, untouched: boolean): void {
    const state = this.options.disks[disk] as SyncDisk;
    if (missed !== undefined)
      for (const { offsetBytes, lengthBytes } of missed) {
        this.runner.captured(disk, offsetBytes, lengthBytes);
        if (this.mode !== 'off' && state.target !== undefined) state.dirty.mark(offsetBytes, lengthBytes);
      }
    else this.runner.captured(disk, 0, state.sizeBytes);
    if (this.mode === 'off' || state.target === undefined) return;
    if (missed === undefined) this.runner.compareAll(disk, untouched);
    if (this.mode !== 'queue') return;
    this.openPending(disk, state);
    this.runner.pump();
    this.options.onChange();
  }

  /** In place of a comparison that is due: `missed` is all that may differ at the target. False: too late or not due. */
  narrow(disk: number, missed: readonly ByteRange[]): boolean {
    const state = this.options.disks[disk] as SyncDisk;
    if (this.mode === 'off' || state.target === undefined || state.scan?.kind !== 'delta') return false;
    state.scan = undefined;
    state.asked.clear();
    for (const { offsetBytes, lengthBytes } of missed) state.dirty.mark(offsetBytes, lengthBytes);
    state.dirty.mark(state.sizeBefore, state.sizeBytes - state.sizeBefore);
    return true;
  }

  /** Places a mark now. Undefined: no disk of the stream is complete, or capture is not on. */
  mark(request: MarkRequest): GivenMark | undefined {
    const { disks, queue, sourceTimeMs } = this.options;
    let knownCount = 0;
    const unknown: SyncDisk[] = [];
    const missing: SyncDisk[] = [];
    for (let index = 0; index < disks.length; index++) {
      const disk = disks[index] as SyncDisk;
      if (disk.target === undefined) {
        if (!disk.removed && !disk.leftOut) unknown.push(disk);
        continue;
      }
      knownCount++;
      if (this.isMissing(index) && !isPlanted('checkpoint-while-syncing')) missing.push(disk);
    }
    // Of several agents one may have no VM of the group at this moment: it hinders nobody's checkpoint.
    const hasNone = knownCount + unknown.length === 0 && request.barrier !== undefined;
    if (this.mode !== 'queue' || (missing.length === knownCount && !hasNone)) return undefined;
    const timeMs = sourceTimeMs();
    const mark: CheckpointMark = {
      id: request.id,
      kind: request.kind,
      sourceTimeMs: timeMs,
      disksMissing: missing.map((disk) => disk.target as number),
      ...(unknown.length === 0 ? {} : { disksUnknown: unknown.length }),
      ...(request.label === undefined ? {} : { label: request.label }),
      ...(request.barrier === undefined ? {} : { barrier: request.barrier }),
      ...(request.provisional === true ? { provisional: true } : {}),
      ...(request.attributes === undefined ? {} : { attributes: request.attributes }),
    };
    const sequence = this.append(RecordKind.checkpoint, mark, 'data');
    const droppable = request.kind === 'crash' && request.barrier === undefined;
    queue.seal(droppable ? 'crash' : 'hard', {
      id: mark.id,
      sourceTimeMs: timeMs,
      complete: missing.length + unknown.length === 0,
    });
    this.recordsSinceMark = 0;
    // Not onChange: what that looks for may take longer than a mark is allowed to.
    this.options.onQueued();
    return {
      id: mark.id,
      sequence,
      sourceTimeMs: timeMs,
      disksMissing: [...missing, ...unknown].map((disk) => disk.name),
    };
  }

  /** False: nothing happened since the last mark, and nobody would hear of a new one. */
  get markIsDue(): boolean {
    return this.recordsSinceMark > 0 || this.options.isConnected();
  }

  isMissing(disk: number): boolean {
    const state = this.options.disks[disk];
    return (
      state?.open !== undefined ||
      (state?.isGrowing === true && !isPlanted('checkpoint-while-growing')) ||
      this.options.isDetached(disk)
    );
  }

  /** A new incarnation: capture is on from here, before the first read of the syncs that it begins with. */
  begin(welcome: Welcome): void {
    const { disks, queue } = this.options;
    queue.clear();
    this.runner.reset();
    this.mode = 'queue';
    for (const [index, disk] of disks.entries()) {
      if (disk.removed) continue;
      const told = welcome.disks.find(({ name }) => name === disk.name);
      this.refuse(disk, welcome);
      disk.target = told?.index;
      if (told === undefined) continue;
      disk.take(told.sizeBytes ?? disk.sourceSizeBytes);
      disk.sizeBefore = told.sizeBefore ?? disk.sizeBytes;
      if (told.sync !== 'none') this.syncWhole(index, disk, told.sync);
    }
    this.runner.pump();
    this.options.onChange();
  }

  /** The same incarnation: what changed of the disks, and the target agreed to, takes its place in the stream. */
  resume(welcome: Welcome): void {
    for (const [index, disk] of this.options.disks.entries()) {
      if (disk.removed) continue;
      this.refuse(disk, welcome);
      const told = welcome.disks.find((each) =>
        disk.target === undefined ? each.name === disk.name && each.sync !== 'none' : each.index === disk.target,
      );
      if (told === undefined) continue;
      const sizeBytes = told.sizeBytes ?? disk.sourceSizeBytes;
      if (disk.target === undefined) {
        const { name } = disk;
        this.change({ change: 'add', disk: told.index, name, sizeBytes });
        disk.target = told.index;
        disk.take(sizeBytes);
        this.syncWhole(index, disk, told.sync === 'delta' ? 'delta' : 'initial');
      } else if (sizeBytes > disk.sizeBytes) {
        const before = disk.sizeBytes;
        this.change({ change: 'grow', disk: disk.target, sizeBytes });
        disk.take(sizeBytes);
        if (!isPlanted('growth-not-synced')) disk.dirty.mark(before, sizeBytes - before);
        if (this.mode === 'queue') this.runner.open(index, 'bitmap');
      }
    }
  }

  /** The disk left the group, or this source: the stream says so, and nothing of it follows. */
  remove(disk: number, change: 'remove' | 'leave' = 'remove'): void {
    const state = this.options.disks[disk] as SyncDisk;
    const { target } = state;
    this.runner.captured(disk, 0, Number.MAX_SAFE_INTEGER);
    state.removed = true;
    this.runner.close(disk);
    if (this.mode === 'off' || target === undefined) return;
    this.change({ change, disk: target });
    this.options.onChange();
  }

  private change(change: DiskChange): void {
    const sequence = this.append(RecordKind.diskChange, change, 'alone');
    this.options.emit('disk-change', { ...change, sequence });
  }

  private refuse(disk: SyncDisk, { disksRefused }: Welcome): void {
    const found = disksRefused?.find(({ name }) => name === disk.name);
    const refused = found?.reason;
    if (refused !== undefined && refused !== disk.refused)
      this.options.emit('disk-refused', { disk: disk.name, reason: refused });
    disk.refused = refused;
    disk.leftOut = found?.leftOut === true;
  }

  private syncWhole(index: number, disk: SyncDisk, kind: 'initial' | 'delta'): void {
    if (disk.reader === undefined) this.options.emit('sync-unavailable', { disk: disk.name });
    if (disk.reader === undefined || this.mode === 'bitmap') disk.dirty.mark(0, disk.sizeBytes);
    else disk.startScan(kind);
    if (this.mode === 'queue') this.runner.open(index, kind);
  }

  retreat(reason: string): void {
    if (this.mode !== 'queue') return;
    this.options.queue.seal('open');
    this.mode = 'bitmap';
    this.retreatCount++;
    this.lastRetreatReason = reason;
    this.skipOne = isPlanted('bitmap-begun-late');
    this.options.emit('retreat-bitmap', { reason, queuedThrough: this.options.queue.sequence });
  }

  /** Leaves the bitmap when the queue has drained on a live connection. */
  advance(): void {
    if (this.mode !== 'bitmap' || !this.options.isConnected() || !this.options.queue.drained) return;
    this.mode = 'queue';
    this.options.emit('bitmap-sync-begun', { bytes: this.dirtyBytes });
    for (const [index, disk] of this.options.disks.entries()) this.openPending(index, disk);
    this.runner.pump();
    this.options.onChange();
  }

  get dirtyBytes(): number {
    return this.options.disks.reduce((sum, disk) => sum + disk.dirty.dirtyBytes, 0);
  }

  /** Forgets the incarnation (fork of what both sides know, or a lost spool block). */
  turnOff(): void {
    this.mode = 'off';
    this.options.queue.clear();
    this.runner.reset();
  }

  emitData(
    disk: number,
    kind: RecordKind,
    offsetBytes: number,
    lengthBytes: number,
    bytes: Uint8Array | undefined,
  ): void {
    const { disks, queue, sourceTimeMs } = this.options;
    const target = (disks[disk] as SyncDisk).target as number;
    const chunkClass = kind === RecordKind.base ? 'base' : 'data';
    queue.append({ kind, disk: target, offsetBytes, lengthBytes, bytes }, sourceTimeMs() * 1000, chunkClass);
    this.options.onChange();
  }

  emitMark(kind: typeof RecordKind.syncBegin | typeof RecordKind.syncEnd, mark: SyncMark): void {
    this.append(kind, mark, 'alone');
    this.options.emit(kind === RecordKind.syncBegin ? 'sync-begun' : 'sync-ended', { ...mark });
    this.options.onChange();
  }

  synced(): void {
    this.options.onSynced();
  }

  isDetached(disk: number): boolean {
    return this.options.isDetached(disk);
  }

  sendDigests(message: DigestsMessage): boolean {
    return this.options.sendDigests(message);
  }

  readFailed(disk: number, error: unknown): void {
    this.syncReadErrors++;
    this.options.emit('sync-read-failed', { disk: this.options.disks[disk]?.name, message: (error as Error).message });
  }

  private openPending(index: number, disk: SyncDisk): void {
    if (disk.scan !== undefined) this.runner.open(index, disk.scan.kind);
    else if (!disk.dirty.isEmpty) this.runner.open(index, 'bitmap');
  }

  private markDirty(state: SyncDisk, offsetBytes: number, lengthBytes: number): void {
    if (this.skipOne) {
      this.skipOne = false;
      return;
    }
    state.dirty.mark(offsetBytes, lengthBytes);
  }

  private append(kind: RecordKind, payload: unknown, chunkClass: 'data' | 'alone'): number {
    const bytes = encoder.encode(JSON.stringify(payload));
    const record = { kind, disk: 0, offsetBytes: 0, lengthBytes: bytes.length, bytes };
    return this.options.queue.append(record, this.options.sourceTimeMs() * 1000, chunkClass);
  }
}

function lengthIn(bytes: Uint8Array | undefined): number {
  return bytes?.length ?? 0;
}
