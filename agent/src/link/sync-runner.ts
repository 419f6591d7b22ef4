/**
 * Brings the target up to the source while the guest writes on (sync: initial, bitmap, delta).
 *
 * Order: capture is on first; syncBegin; then what is dirty is read and sent (base records only for what an initial scan
 * reads; what was dirty once goes through the journal); when a disk has nothing left, syncEnd and a checkpoint.
 * Data read is given its sequence in the turn in which the read returned, minus what was captured since its issue.
 * Retreat in the middle: reads under way go back into the map, the range stays open, and it goes on after the drain.
 */
import { randomHex } from '../core/ids.js';
import { RecordKind, type SyncKind, type SyncMark } from '../block/record.js';
import type { Clock } from '../core/clock.js';
import { isPlanted } from '../core/planted.js';
import type { Random } from '../core/random.js';
import { chunkDigest, isZero, type DigestsMessage, type NeedMessage } from '../stream/digests.js';
import { digestBytes } from '../stream/messages.js';
import type { ByteRange } from './coverage.js';
import { dirtyChunkBytes } from './dirty-map.js';
import type { Scheduler } from './environment.js';
import { ReadGuard } from './read-guard.js';
import type { SyncDisk } from './sync-disk.js';

/** Chunks of one read: 1 MiB, the largest record. */
const readChunkCount = 16;
const readCountMax = 4;
/** Digest requests without an answer; 16 chunks each. */
const askedCountMax = 64;
const readRetryMs = 1000;

/** What the runner needs of its link. */
export interface SyncHost {
  /** Records may be queued now: capture is on. */
  readonly capturing: boolean;
  /** The queue has room for a read ahead. */
  readonly hasRoom: boolean;
  emitData(
    disk: number,
    kind: RecordKind,
    offsetBytes: number,
    lengthBytes: number,
    bytes: Uint8Array | undefined,
  ): void;
  emitMark(kind: typeof RecordKind.syncBegin | typeof RecordKind.syncEnd, mark: SyncMark): void;
  /** A disk became complete: a checkpoint should follow. */
  synced(disk: number, mark: SyncMark): void;
  /** False: not connected. */
  sendDigests(message: DigestsMessage): boolean;
  readonly connected: boolean;
  /** Nothing of the disk is read: its capture is off, so that what was read could grow stale unseen. */
  isDetached(disk: number): boolean;
  /** The source could not be read; it is tried again. */
  readFailed(disk: number, error: unknown): void;
}

export class SyncRunner {
  private readonly disks: readonly SyncDisk[];
  private readonly host: SyncHost;
  private readonly clock: Clock;
  private readonly random: Random;
  private readonly scheduler: Scheduler;
  private readonly guard = new ReadGuard();
  private restUntilMs = -Infinity;
  private requestId = 0;
  private generation = 0;
  /** Records of one read are being queued: nothing may come between them, least of all the end of the range. */
  private emitting = false;
  startedMs = 0;

  constructor(disks: readonly SyncDisk[], host: SyncHost, clock: Clock, random: Random, scheduler: Scheduler) {
    this.disks = disks;
    this.host = host;
    this.clock = clock;
    this.random = random;
    this.scheduler = scheduler;
  }

  /** Opens a disk's sync range in the stream, unless it is open. Capture must be on. */
  open(disk: number, kind: SyncKind): void {
    const state = this.disks[disk] as SyncDisk;
    if (state.open !== undefined || state.target === undefined) return;
    if (this.disks.every((each) => each.open === undefined)) this.startedMs = this.clock.monotonicMs();
    const mark = { syncId: randomHex(this.random, 8), kind, disks: [state.target] };
    state.open = mark;
    state.totalBytes = state.leftBytes;
    this.host.emitMark(RecordKind.syncBegin, mark);
  }

  /** To be told of every change of a disk's bytes, whatever becomes of it. */
  captured(disk: number, offsetBytes: number, lengthBytes: number): void {
    this.guard.carve(disk, offsetBytes, lengthBytes);
  }

  /** A captured write without a reader fills what could not be read. */
  covered(disk: number, offsetBytes: number, lengthBytes: number): void {
    const state = this.disks[disk] as SyncDisk;
    if (state.open === undefined || state.reader !== undefined) return;
    state.dirty.clearWithin(offsetBytes, lengthBytes);
    if (state.dirty.isEmpty) this.finish();
  }

  /** Starts what may be started now. Cheap when there is nothing to do. */
  pump(): void {
    if (this.emitting || !this.host.capturing || this.clock.monotonicMs() < this.restUntilMs) return;
    for (const [index, disk] of this.disks.entries()) {
      if (disk.open === undefined || disk.reader === undefined || this.host.isDetached(index)) continue;
      while (this.guard.count < readCountMax && this.host.hasRoom && this.startOne(index, disk, disk.reader));
    }
    this.finish();
  }

  /** The connection is gone: what was asked is asked again on the next. */
  disconnected(): void {
    for (const disk of this.disks) {
      for (const { firstChunk } of disk.asked.values()) disk.rewind('delta', firstChunk);
      disk.asked.clear();
    }
  }

  need(message: NeedMessage): void {
    const disk = this.disks.find((each) => each.target === message.disk);
    const asked = disk?.asked.get(message.requestId);
    if (disk === undefined || asked?.firstChunk !== message.firstChunk || asked.count !== message.count) return;
    disk.asked.delete(message.requestId);
    for (let index = 0; index < asked.count; index++) {
      if (((message.bits[index >> 3] as number) & (1 << (index & 7))) === 0) continue;
      disk.dirty.mark((asked.firstChunk + index) * dirtyChunkBytes, 1);
    }
    this.pump();
  }

  /** Ends the range of a disk that leaves, read or not. */
  close(disk: number): void {
    const state = this.disks[disk] as SyncDisk;
    const { open } = state;
    state.forget();
    if (open !== undefined) this.host.emitMark(RecordKind.syncEnd, open);
  }

  /** A new incarnation: reads under way are worth nothing. */
  reset(): void {
    this.generation++;
    for (const disk of this.disks) disk.reset();
  }

  /** A disk's capture began (again) and what was missed is not known: all of it is compared. */
  compareAll(disk: number, untouched: boolean): void {
    const state = this.disks[disk] as SyncDisk;
    const pending = state.scan?.nextChunk === 0 && !this.guard.isReading(disk);
    // A first sync that has not begun: nothing of this disk was sent that could be older than what it reads.
    if (untouched && pending) return;
    if (state.reader === undefined) state.dirty.mark(0, state.sizeBytes);
    else state.startScan('delta');
  }

  private startOne(index: number, disk: SyncDisk, reader: NonNullable<SyncDisk['reader']>): boolean {
    const run = disk.dirty.take(readChunkCount);
    if (run !== undefined) {
      void this.read(index, disk, reader, run.firstChunk, run.count, 'dirty');
      return true;
    }
    const { scan } = disk;
    if (scan === undefined) return false;
    const count = Math.min(readChunkCount, scan.endChunk - scan.nextChunk);
    if (count <= 0) {
      if (!this.guard.isReading(index)) disk.scan = undefined;
      return false;
    }
    if (scan.kind === 'delta' && (!this.host.connected || disk.asked.size >= askedCountMax)) return false;
    const firstChunk = scan.nextChunk;
    scan.nextChunk += count;
    void this.read(index, disk, reader, firstChunk, count, scan.kind);
    return true;
  }

  private async read(
    index: number,
    disk: SyncDisk,
    reader: NonNullable<SyncDisk['reader']>,
    firstChunk: number,
    count: number,
    why: 'dirty' | 'initial' | 'delta',
  ): Promise<void> {
    const { generation } = this;
    const offsetBytes = firstChunk * dirtyChunkBytes;
    const lengthBytes = Math.min(count * dirtyChunkBytes, disk.sizeBytes - offsetBytes);
    const guarded = this.guard.begin(index, offsetBytes, lengthBytes);
    let data: Uint8Array | undefined;
    let digests: Uint8Array | undefined;
    let failure: unknown;
    try {
      data = await readUnlessZero(reader, offsetBytes, lengthBytes);
      if (why === 'delta') digests = await this.digest(data, count);
    } catch (error) {
      failure = error;
    }
    // From here to the end in one turn: the data and what was captured meanwhile take their places together.
    const left = this.guard.end(guarded);
    if (generation !== this.generation) return;
    if (disk.removed) {
      this.pump();
      return;
    }
    const usable = failure === undefined && this.host.capturing;
    const sent = usable && (why === 'delta' ? this.ask(disk, firstChunk, count, digests) : true);
    if (!sent) this.putBack(disk, firstChunk, offsetBytes, lengthBytes, why);
    else if (why !== 'delta') {
      this.emitting = true;
      this.emit(index, why, offsetBytes, data, left);
      this.emitting = false;
    }
    if (failure !== undefined) this.rest(index, failure);
    this.pump();
  }

  private rest(disk: number, failure: unknown): void {
    this.restUntilMs = this.clock.monotonicMs() + readRetryMs;
    this.clock.after(readRetryMs, () => this.pump());
    this.host.readFailed(disk, failure);
  }

  private putBack(
    disk: SyncDisk,
    chunk: number,
    offset: number,
    length: number,
    why: 'dirty' | 'initial' | 'delta',
  ): void {
    if (why === 'dirty') disk.dirty.mark(offset, length);
    else disk.rewind(why, chunk);
  }

  private ask(disk: SyncDisk, firstChunk: number, count: number, digests: Uint8Array | undefined): boolean {
    if (digests === undefined || disk.target === undefined) return false;
    this.requestId = (this.requestId + 1) >>> 0;
    const { requestId } = this;
    if (!this.host.sendDigests({ requestId, disk: disk.target, firstChunk, digests })) return false;
    disk.asked.set(requestId, { firstChunk, count });
    return true;
  }

  /** Sends what is left of a read, zeros as zero records. `data` undefined: all zeros. */
  private emit(
    disk: number,
    why: 'dirty' | 'initial',
    offset: number,
    data: Uint8Array | undefined,
    left: readonly ByteRange[],
  ): void {
    const state = this.disks[disk] as SyncDisk;
    for (const range of left) {
      // A chunk that was ever dirty may have captured records in the journal that are older than its bytes.
      for (const piece of why === 'initial' ? cleanPieces(state, range) : [range]) {
        for (const run of zeroRuns(piece, offset, data)) {
          const { offsetBytes, lengthBytes } = run;
          if (!run.zero) {
            const bytes = (data as Uint8Array).subarray(offsetBytes - offset, offsetBytes - offset + lengthBytes);
            const kind = why === 'initial' ? RecordKind.base : RecordKind.syncWrite;
            this.host.emitData(disk, kind, offsetBytes, lengthBytes, bytes);
          } else if (why === 'dirty') {
            this.host.emitData(disk, RecordKind.syncZero, offsetBytes, lengthBytes, undefined);
          }
        }
      }
    }
  }

  private finish(): void {
    if (this.emitting || !this.host.capturing) return;
    for (const [index, disk] of this.disks.entries()) {
      if (disk.scan !== undefined && disk.scan.nextChunk >= disk.scan.endChunk && !this.guard.isReading(index))
        disk.scan = undefined;
      const { open } = disk;
      if (open === undefined || !disk.isDone || this.guard.isReading(index)) continue;
      disk.open = undefined;
      if (!isPlanted('sync-range-end-missing')) this.host.emitMark(RecordKind.syncEnd, open);
      this.host.synced(index, open);
    }
  }

  private async digest(data: Uint8Array | undefined, count: number): Promise<Uint8Array> {
    const digests = new Uint8Array(count * digestBytes);
    if (data === undefined) return digests;
    for (let index = 0; index < count; index++) {
      const chunk = data.subarray(index * dirtyChunkBytes, (index + 1) * dirtyChunkBytes);
      digests.set(chunkDigest(chunk), index * digestBytes);
      if (index % 4 === 3) await this.scheduler.yield();
    }
    return digests;
  }
}

/** Undefined when the source says that the whole range reads as zeros. */
async function readUnlessZero(
  reader: NonNullable<SyncDisk['reader']>,
  offsetBytes: number,
  lengthBytes: number,
): Promise<Uint8Array | undefined> {
  if (reader.extents !== undefined) {
    const [first] = await reader.extents(offsetBytes, lengthBytes, 1);
    if (first?.zero === true && first.lengthBytes >= lengthBytes) return undefined;
  }
  const data = new Uint8Array(lengthBytes);
  await reader.read(data, offsetBytes);
  return data;
}

function cleanPieces(disk: SyncDisk, range: ByteRange): ByteRange[] {
  return chunkPieces(range).filter(({ offsetBytes }) => !disk.dirty.has(Math.floor(offsetBytes / dirtyChunkBytes)));
}

/** The range cut at chunk borders. */
function chunkPieces({ offsetBytes, lengthBytes }: ByteRange): ByteRange[] {
  const pieces: ByteRange[] = [];
  const end = offsetBytes + lengthBytes;
  for (let at = offsetBytes; at < end;) {
    const stop = Math.min(end, (Math.floor(at / dirtyChunkBytes) + 1) * dirtyChunkBytes);
    pieces.push({ offsetBytes: at, lengthBytes: stop - at });
    at = stop;
  }
  return pieces;
}

/** The range as runs of zero and other chunks, neighbours of a kind joined. */
function zeroRuns(
  range: ByteRange,
  dataOffset: number,
  data: Uint8Array | undefined,
): (ByteRange & { zero: boolean })[] {
  if (data === undefined) return [{ ...range, zero: true }];
  const runs: (ByteRange & { zero: boolean })[] = [];
  for (const { offsetBytes, lengthBytes } of chunkPieces(range)) {
    const zero = isZero(data.subarray(offsetBytes - dataOffset, offsetBytes - dataOffset + lengthBytes));
    const last = runs.at(-1);
    if (last?.zero === zero) runs[runs.length - 1] = { ...last, lengthBytes: last.lengthBytes + lengthBytes };
    else runs.push({ offsetBytes, lengthBytes, zero });
  }
  return runs;
}
