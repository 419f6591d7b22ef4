/** A source group on the simulated world, and a plain target that applies blocks to byte arrays and checks marks. */
import { zstdCompressSync } from 'node:zlib';
import { expect } from '@jest/globals';
import { decodeBlock, decodeTable, type Block } from '../../agent/src/block/block.js';
import { blockBody } from '../../agent/src/block/body.js';
import { RecordKind, recordKinds, type CheckpointMark, type SyncMark } from '../../agent/src/block/record.js';
import { SourceGroup } from '../../agent/src/capture/source-group.js';
import type { Connection } from '../../agent/src/core/transport.js';
import type { LinkBounds } from '../../agent/src/link/environment.js';
import type { SourceLink } from '../../agent/src/link/link.js';
import type { Throttle } from '../../agent/src/link/throttle.js';
import type { DiskReader } from '../../agent/src/link/sync-disk.js';
import type { Payload } from '../../agent/src/nbd/payload.js';
import { chunkDigest, decodeDigests, encodeNeed } from '../../agent/src/stream/digests.js';
import { encodeFrame, encodeJsonFrame, FrameDecoder, parseFrame, type Frame } from '../../agent/src/stream/frame.js';
import { FrameType, helloSchema, pingSchema, type Hello } from '../../agent/src/stream/messages.js';
import { SimWorld } from '../sim/world/sim-world.js';
import type { SimHost, SimProcess } from '../sim/world/sim-host.js';

export const chunkBytes = 65_536;

/** A payload that checks that it is released exactly as often as retained. */
export class TestPayload implements Payload {
  static live = 0;
  bytes: Uint8Array;
  private count = 0;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
  retain(): void {
    if (this.count++ === 0) TestPayload.live++;
  }
  release(): void {
    expect(this.count).toBeGreaterThan(0);
    if (--this.count > 0) return;
    TestPayload.live--;
    this.bytes.fill(0xdd);
  }
}

interface TargetDisk {
  readonly name: string;
  readonly replica: Uint8Array;
  readonly overlay: Uint8Array;
  readonly mask: Uint8Array;
}

/** What a mark must look like: bytes of all disks by its id. */
export type Snapshots = Map<string, Uint8Array[]>;

export class PlainTarget {
  readonly disks: TargetDisk[];
  epoch = 1;
  branch = 'a'.repeat(16);
  fenced = false;
  streamCount = 1;
  incarnation = 0;
  nonce = '';
  received = 0;
  durable = 0;
  paused = false;
  /** Acknowledgements stop (the disk of the target hangs). */
  stalled = false;
  readonly openSyncs = new Set<string>();
  readonly marks: CheckpointMark[] = [];
  /** Records by kind, and folded ranges. */
  readonly counts: Record<string, number> = {};
  verified = 0;
  frames: Frame[] = [];
  connection: Connection | undefined;
  hello: Hello | undefined;
  private parts: Block[] = [];
  private landing: (readonly Block[])[] = [];
  private readonly world: SimWorld;
  private readonly snapshots: Snapshots;
  readonly mismatches: string[] = [];

  constructor(
    world: SimWorld,
    process: SimProcess,
    disks: readonly { name: string; sizeBytes: number }[],
    snapshots: Snapshots,
  ) {
    this.world = world;
    this.snapshots = snapshots;
    this.disks = disks.map(({ name, sizeBytes }) => ({
      name,
      replica: new Uint8Array(sizeBytes),
      overlay: new Uint8Array(sizeBytes),
      mask: new Uint8Array(sizeBytes),
    }));
    process.listen(7000).onConnection((connection) => this.serve(connection));
    const tick = (): void => {
      this.sendAck();
      world.scheduler.after(500, tick);
    };
    tick();
  }

  view(disk: number): Uint8Array {
    const { replica, overlay, mask } = this.disks[disk]!;
    return replica.map((byte, at) => (mask[at] === 1 ? overlay[at]! : byte));
  }

  private serve(connection: Connection): void {
    this.connection?.close('a newer one');
    this.connection = undefined;
    const decoder = new FrameDecoder();
    let greeted = false;
    let open = true;
    connection.onDrain(() => undefined);
    connection.onClose(() => {
      open = false;
      if (this.connection === connection) this.connection = undefined;
    });
    connection.onData((chunk) => {
      if (!open) return;
      decoder.push(chunk, (frame) => {
        if (!open) return;
        this.frames.push(frame);
        if (frame.type === FrameType.hello && !greeted) {
          greeted = true;
          this.parts = [];
          this.greet(connection, parseFrame(helloSchema, frame));
        } else if (frame.type === FrameType.block) this.onBlock(connection, decodeBlock(frame.payload));
        else if (frame.type === FrameType.digests) this.onDigests(connection, frame.payload.slice());
        else if (frame.type === FrameType.ping) {
          const { id } = parseFrame(pingSchema, frame);
          connection.send(encodeJsonFrame(FrameType.pong, { id, wallMs: this.world.nowMs }));
        }
      });
    });
  }

  private greet(connection: Connection, hello: Hello): void {
    this.hello = hello;
    if (this.fenced) {
      connection.send(encodeJsonFrame(FrameType.refuse, { code: 'stale-epoch', message: 'failed over' }));
      connection.close('fenced');
      return;
    }
    const resumed = hello.incarnation !== 0;
    if (resumed && (hello.incarnation !== this.incarnation || hello.nonce !== this.nonce)) {
      // Of a process that was killed, still on its way; a live link that is refused never settles.
      connection.send(
        encodeJsonFrame(FrameType.refuse, { code: 'stale-incarnation', message: 'a newer start is known' }),
      );
      connection.close('stale');
      return;
    }
    if (!resumed && hello.nonce !== this.nonce) {
      this.incarnation++;
      this.nonce = hello.nonce;
      this.received = 0;
      this.durable = 0;
      this.openSyncs.clear();
    }
    this.received = this.durable;
    this.landing = [];
    this.connection = connection;
    const fresh = this.disks.every(({ mask, replica }) => !mask.includes(1) && replica.every((byte) => byte === 0));
    const sync = resumed ? 'none' : fresh ? 'initial' : 'delta';
    connection.send(
      encodeJsonFrame(FrameType.welcome, {
        protocol: 1,
        stream: 3,
        epoch: this.epoch,
        branch: this.branch,
        incarnation: this.incarnation,
        durableSequence: this.durable,
        streamCount: this.streamCount,
        checkpointIntervalMs: 1000,
        disks: this.disks.map(({ name }, index) => ({ name, index: index + 5, sync })),
        wallMs: this.world.nowMs,
      }),
    );
  }

  sendAck(): void {
    this.connection?.send(
      encodeJsonFrame(FrameType.ack, {
        durableSequence: this.durable,
        receivedSequence: Math.max(this.received, this.durable),
        state: this.paused ? 'paused' : 'ok',
        wallMs: this.world.nowMs,
      }),
    );
  }

  private onBlock(connection: Connection, block: Block): void {
    const { header } = block;
    if (header.lastSequence <= this.received) return;
    if (header.firstSequence !== this.received + 1 || (header.folded && header.part !== this.parts.length)) {
      this.mismatches.push(
        `gap: ${header.firstSequence}…${header.lastSequence} part ${header.part} after ${this.received}`,
      );
      connection.close('gap');
      return;
    }
    expect([header.epoch, header.branch, header.incarnation, header.stream]).toEqual([
      this.epoch,
      this.branch,
      this.incarnation,
      3,
    ]);
    this.parts.push(block);
    if (header.folded && !header.lastPart) return;
    const blocks = this.parts;
    this.parts = [];
    this.received = header.lastSequence;
    if (header.folded) this.count('folded');
    // All of it is applied when it is durable, so that a crash of the target before that forgets it.
    this.landing.push(blocks);
    if (this.landing.length === 1) this.landSoon();
  }

  private landSoon(): void {
    this.world.scheduler.after(1 + this.world.random.float() * 20, () => {
      if (!this.stalled) {
        for (const blocks of this.landing.splice(0)) {
          const { header } = blocks[0]!;
          if (header.incarnation !== this.incarnation || header.firstSequence !== this.durable + 1) continue;
          for (const block of blocks) this.apply(block);
          this.durable = header.lastSequence;
        }
        this.sendAck();
      }
      if (this.landing.length > 0) this.landSoon();
    });
  }

  private apply(block: Block): void {
    const body = blockBody(block);
    const records = decodeTable(block.header, block.table);
    const bases = records.filter(({ kind }) => kind === RecordKind.base).length;
    expect(bases === 0 || bases === records.length).toBe(true);
    for (const record of records) {
      const { kind, offsetBytes, lengthBytes } = record;
      const bytes = body.subarray(record.bodyOffset, record.bodyOffset + lengthBytes);
      this.count(Object.entries(RecordKind).find(([, value]) => value === kind)![0]);
      if (kind === RecordKind.checkpoint) {
        expect(record).toBe(records.at(-1));
        this.check(JSON.parse(Buffer.from(bytes).toString()) as CheckpointMark);
      } else if (kind === RecordKind.syncBegin)
        this.openSyncs.add((JSON.parse(Buffer.from(bytes).toString()) as SyncMark).syncId);
      else if (kind === RecordKind.syncEnd) {
        expect(this.openSyncs.delete((JSON.parse(Buffer.from(bytes).toString()) as SyncMark).syncId)).toBe(true);
      } else {
        const disk = this.disks[record.disk - 5]!;
        if (kind === RecordKind.base) disk.replica.set(bytes, offsetBytes);
        else {
          if (recordKinds[kind].zero) disk.overlay.fill(0, offsetBytes, offsetBytes + lengthBytes);
          else disk.overlay.set(bytes, offsetBytes);
          disk.mask.fill(1, offsetBytes, offsetBytes + lengthBytes);
        }
      }
    }
  }

  private check(mark: CheckpointMark): void {
    this.marks.push(mark);
    const expected = this.snapshots.get(mark.id);
    if (mark.disksMissing.length === 0 && this.openSyncs.size > 0)
      this.mismatches.push(`mark ${mark.id}: complete within a sync`);
    if (mark.disksMissing.length > 0 || this.openSyncs.size > 0 || expected === undefined) return;
    for (const [index, bytes] of expected.entries()) {
      const at = firstDifference(this.view(index), bytes);
      if (at !== undefined) this.mismatches.push(`mark ${mark.id}: disk ${index} differs at ${at}`);
    }
    this.verified++;
  }

  private onDigests(connection: Connection, payload: Uint8Array): void {
    const { requestId, disk, firstChunk, digests } = decodeDigests(payload);
    const count = digests.length / 16;
    const bits = new Uint8Array(Math.ceil(count / 8));
    const view = this.view(disk - 5);
    for (let index = 0; index < count; index++) {
      const chunk = view.subarray((firstChunk + index) * chunkBytes, (firstChunk + index + 1) * chunkBytes);
      if (!Buffer.from(chunkDigest(chunk)).equals(digests.subarray(index * 16, index * 16 + 16)))
        bits[index >> 3]! |= 1 << (index & 7);
    }
    this.count('digests');
    this.world.scheduler.after(5, () =>
      connection.send(encodeFrame(FrameType.need, encodeNeed({ requestId, disk, firstChunk, count, bits }))),
    );
  }

  private count(name: string): void {
    this.counts[name] = (this.counts[name] ?? 0) + 1;
  }
}

function firstDifference(a: Uint8Array, b: Uint8Array): number | undefined {
  const at = a.findIndex((byte, index) => byte !== b[index]);
  return at < 0 ? undefined : at;
}

export interface RigOptions {
  readonly diskBytes?: readonly number[];
  readonly bounds?: Partial<LinkBounds>;
  readonly throttle?: (process: SimProcess) => Throttle;
  readonly noReader?: readonly number[];
  readonly checkpointIntervalMs?: number;
}

export class Rig {
  readonly world: SimWorld;
  /** The source's disks as the guest sees them. */
  readonly disks: Uint8Array[];
  readonly target: PlainTarget;
  readonly snapshots: Snapshots = new Map();
  readonly events: { code: string; fields: Readonly<Record<string, unknown>> }[] = [];
  readonly options: RigOptions;
  readonly sourceHost: SimHost;
  group!: SourceGroup;
  link!: SourceLink;
  source!: SimProcess;
  readDelayMs = 1;
  failReads = 0;
  private readonly targetProcess: SimProcess;

  constructor(seed: number, options: RigOptions = {}) {
    this.options = options;
    this.world = new SimWorld(seed);
    this.disks = (options.diskBytes ?? [8 * chunkBytes, 5 * chunkBytes - 512]).map((bytes) => new Uint8Array(bytes));
    this.targetProcess = this.world.addHost('target').start();
    this.sourceHost = this.world.addHost('source');
    this.target = new PlainTarget(this.world, this.targetProcess, this.declared(), this.snapshots);
  }

  private declared(): { name: string; sizeBytes: number }[] {
    return this.disks.map((disk, index) => ({ name: `disk${index}`, sizeBytes: disk.length }));
  }

  private reader(index: number): DiskReader {
    return {
      read: (target, offset) =>
        new Promise((resolve, reject) => {
          // The bytes are taken at some moment between issue and return.
          const half = this.readDelayMs * this.world.random.float();
          this.world.scheduler.after(half, () => {
            target.set(this.disks[index]!.subarray(offset, offset + target.length));
            const failed = this.failReads > 0 && this.failReads-- > 0;
            this.world.scheduler.after(half, () => (failed ? reject(new Error('read failed')) : resolve()));
          });
        }),
    };
  }

  /** Starts the source agent. */
  start(): SourceLink {
    const process = this.sourceHost.start();
    this.source = process;
    const { clock, random, storage, dialer } = process;
    const events = {
      emit: (code: string, fields: Readonly<Record<string, unknown>>) => void this.events.push({ code, fields }),
    };
    this.group = new SourceGroup({
      name: 'g',
      agent: 'source',
      clock,
      random,
      events,
      checkpointIntervalMs: this.options.checkpointIntervalMs,
      disks: this.declared().map((disk, index) => ({
        ...disk,
        reader: this.options.noReader?.includes(index) === true ? undefined : this.reader(index),
      })),
    });
    this.link = this.group.addLink({
      target: 'target',
      address: 'target:7000',
      directory: '/agent/link',
      storage,
      dialer,
      clock,
      random,
      events,
      software: 'test',
      cpuIdleShare: () => 0.5,
      scheduler: { yield: () => new Promise((resolve) => clock.after(0, () => resolve())) },
      compressor: { compress: (raw) => zstdCompressSync(raw) },
      ...(this.options.throttle === undefined ? {} : { throttle: this.options.throttle(process) }),
      ...(this.options.bounds === undefined ? {} : { bounds: this.options.bounds }),
    });
    const mark = this.link.mark.bind(this.link);
    this.link.mark = (request) => {
      const given = mark(request);
      if (given?.disksMissing.length === 0)
        this.snapshots.set(
          given.id,
          this.disks.map((disk) => disk.slice()),
        );
      return given;
    };
    return this.link;
  }

  /** As a guest write that reached its disk and the capture point in one moment. */
  write(disk: number, offsetBytes: number, bytes: Uint8Array): Promise<void> | undefined {
    this.disks[disk]!.set(bytes, offsetBytes);
    const payload = new TestPayload(bytes);
    payload.retain();
    const held = this.group.capture({ disk, kind: RecordKind.write, offsetBytes, lengthBytes: bytes.length, payload });
    payload.release();
    return held;
  }

  zero(
    disk: number,
    offsetBytes: number,
    lengthBytes: number,
    kind: typeof RecordKind.zero | typeof RecordKind.discard = RecordKind.zero,
  ): void {
    this.disks[disk]!.fill(0, offsetBytes, offsetBytes + lengthBytes);
    void this.group.capture({ disk, kind, offsetBytes, lengthBytes });
  }

  /** A write that failed on the disk: any mixture is there. */
  fail(disk: number, offsetBytes: number, lengthBytes: number): void {
    for (let at = 0; at < lengthBytes; at += 512) {
      if (this.world.random.chance(0.5))
        this.disks[disk]!.fill(0xee, offsetBytes + at, offsetBytes + Math.min(at + 512, lengthBytes));
    }
    this.group.contentUnknown(disk, offsetBytes, lengthBytes);
  }

  randomWrite(lengthMax = 20_000): void {
    const { random } = this.world;
    const disk = random.int(this.disks.length);
    const size = this.disks[disk]!.length;
    const offset = random.int(size - 1);
    const length = 1 + random.int(Math.min(lengthMax, size - offset));
    const dice = random.float();
    if (dice < 0.1) this.zero(disk, offset, length);
    else if (dice < 0.15) this.zero(disk, offset, length, RecordKind.discard);
    else
      void this.write(
        disk,
        offset,
        random.chance(0.5) ? new Uint8Array(length).fill(random.int(255)) : random.bytes(length),
      );
  }

  until(condition: () => boolean, timeoutMs = 600_000): Promise<void> {
    const untilMs = this.world.nowMs + timeoutMs;
    return this.world.run({ until: () => condition() || this.target.mismatches.length > 0, untilMs }).then((end) => {
      expect(this.target.mismatches).toEqual([]);
      if (end !== 'until') throw new Error(`condition not met (${end}): ${JSON.stringify(this.link.status, null, 1)}`);
    });
  }

  wait(ms: number): Promise<unknown> {
    return this.world.run({ untilMs: this.world.nowMs + ms });
  }

  /** Waits until a tagged mark over everything so far is durable, and compares the disks. */
  async settle(): Promise<void> {
    let tagged: string | undefined;
    await this.until(() => {
      if (
        tagged === undefined &&
        this.link.isConnected &&
        this.link.status.syncs.length === 0 &&
        this.link.status.stage !== 'bitmap'
      ) {
        try {
          const mark = this.group.tag('settled')[0]!.mark;
          if (mark?.disksMissing.length === 0) tagged = mark.id;
        } catch {
          return false;
        }
      }
      if (tagged !== undefined && !this.link.isConnected && this.link.status.incarnation === 0) tagged = undefined;
      return tagged !== undefined && this.target.marks.some(({ id }) => id === tagged);
    });
    for (const index of this.disks.keys())
      expect(firstDifference(this.target.view(index), this.disks[index]!)).toBeUndefined();
    expect(this.target.openSyncs.size).toBe(0);
  }

  async finish(): Promise<void> {
    let stopped = false;
    void this.group.close().then(() => (stopped = true));
    await this.until(() => stopped);
    expect(this.target.mismatches).toEqual([]);
  }
}
