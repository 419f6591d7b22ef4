/** One source agent's connection at the target: hello, blocks in, acknowledgements out, barriers, digests, keep-alive. */
import { decodeBlock } from '../block/block.js';
import type { Clock, Timer } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { Connection } from '../core/transport.js';
import { decodeDefinition } from '../stream/definitions.js';
import { encodeNeed, type NeedMessage } from '../stream/digests.js';
import { encodeFrame, encodeJsonFrame, FrameDecoder, parseFrame, type Frame } from '../stream/frame.js';
import {
  FrameType,
  heldSchema,
  helloSchema,
  offerSchema,
  pingSchema,
  releasedSchema,
  verdictSchema,
  type Ack,
  type Hello,
  type Verdict,
  type Welcome,
} from '../stream/messages.js';
import { ContiguityGate } from './admission.js';
import type { BarrierParticipant, BarrierRequest } from './barrier.js';
import { DeltaSync, type DeltaSource } from './delta.js';
import { DefinitionIntake } from './definition-intake.js';
import type { DefinitionStore } from './definitions.js';
import type { IngestSource, Ingest } from './ingest.js';
import type { BarrierCoordinator } from './barrier.js';

/** What a session needs of its group. */
export interface SessionGroup {
  readonly ingest: Ingest;
  readonly barrier: BarrierCoordinator;
  readonly delta: DeltaSource;
  readonly definitions: DefinitionStore;
  /** Checks, makes the incarnation durable, replaces an older session of the stream. */
  admit(hello: Hello, session: TargetSession): Promise<Welcome>;
  /** Durable and received sequence of a stream in that incarnation, and whether the target can take more. */
  progress(stream: number, incarnation: number): Pick<Ack, 'durableSequence' | 'receivedSequence' | 'state' | 'reason'>;
  left(session: TargetSession): void;
  /** Resolves when it is durable. */
  keepVerdict(stream: number, verdict: Verdict): Promise<void>;
  /** Our wall clock minus the source's, milliseconds, one network way at most too much. */
  observeSourceClock(behindMs: number): void;
}

/** Finds the group of a hello; throws `group-unknown`. */
export type GroupLookup = (name: string) => SessionGroup;

/** What a source may send after its hello. */
const sourceFrames: ReadonlySet<FrameType> = new Set([
  FrameType.block,
  FrameType.digests,
  FrameType.held,
  FrameType.released,
  FrameType.offer,
  FrameType.definition,
  FrameType.verdict,
  FrameType.ping,
  FrameType.pong,
]);
const helloTimeoutMs = 10_000;
const ackIntervalMs = 1000;
const clockSampleCountMax = 16;
const rateSampleCountMax = 6;
/** Without any frame for this long the connection is dead (the source pings every 5 s). */
const silenceMsMax = 20_000;

export class TargetSession implements IngestSource, BarrierParticipant {
  closed = false;
  stream = -1;
  incarnation = 0;
  readonly peerName: string;
  readonly address: string;
  /** Wall time of the connection, milliseconds. */
  readonly sinceMs: number;
  /** Blocks and bytes taken since the start of this connection. */
  blockCount = 0;
  receivedBytes = 0;
  private group: SessionGroup | undefined;
  private gate: ContiguityGate | undefined;
  private deltaSync: DeltaSync | undefined;
  private intake: DefinitionIntake | undefined;
  private readonly decoder = new FrameDecoder(new Set([FrameType.hello]));
  private paused = false;
  private lastHeardMs: number;
  private timer: Timer;
  private greeting = false;
  private readonly clockSamples: number[] = [];
  private readonly rateSamples: { atMs: number; bytes: number }[] = [];

  constructor(
    private readonly connection: Connection,
    private readonly clock: Clock,
    private readonly lookup: GroupLookup,
  ) {
    this.peerName = connection.peer.name;
    this.address = connection.peer.address;
    this.sinceMs = clock.wallMs();
    this.lastHeardMs = clock.monotonicMs();
    connection.onClose((reason) => this.finish(reason));
    connection.onDrain(() => undefined);
    connection.onData((chunk) => this.onData(chunk));
    this.timer = clock.after(helloTimeoutMs, () => this.close('protocol-error', 'No hello came in time.'));
  }

  /** Refuses with a code the source understands, then closes. Idempotent. */
  close(code: string, message: string): void {
    if (this.closed) return;
    this.connection.send(encodeJsonFrame(FrameType.refuse, { code, message: message.slice(0, 1024) }));
    this.connection.close(`${code}: ${message}`);
    this.finish(message);
  }

  /** Our clock minus the source's, one network way at most too much; undefined before the first ping. */
  get clockBehindMs(): number | undefined {
    return this.clockSamples.length === 0 ? undefined : Math.min(...this.clockSamples);
  }

  /** Received over the last whole seconds, at most five. */
  bytesPerSecond(): number {
    const first = this.rateSamples[0];
    const last = this.rateSamples.at(-1);
    if (first === undefined || last === undefined || last.atMs <= first.atMs) return 0;
    return ((last.bytes - first.bytes) * 1000) / (last.atMs - first.atMs);
  }

  /** Stops or goes on reading (back-pressure). */
  setPaused(paused: boolean): void {
    if (this.closed || this.paused === paused) return;
    this.paused = paused;
    if (paused) this.connection.pause();
    else this.connection.resume();
  }

  /** Tells the source what is durable now. */
  sendAck(): void {
    if (this.closed || this.group === undefined || this.gate === undefined) return;
    const progress = this.group.progress(this.stream, this.incarnation);
    this.send(FrameType.ack, { ...progress, wallMs: this.clock.wallMs() });
  }

  fence(epoch: number, branch: string, reason: string): void {
    this.send(FrameType.epoch, { epoch, branch, reason });
    this.close('stale-epoch', reason);
  }

  /** Asks the source to send chunks again; false: it cannot be asked now. */
  askRepair(chunks: Omit<NeedMessage, 'requestId'>): boolean {
    if (this.closed || this.gate === undefined) return false;
    this.sendPieces(encodeFrame(FrameType.repair, encodeNeed({ requestId: 0, ...chunks })));
    return true;
  }

  hold(request: BarrierRequest): void {
    this.send(FrameType.hold, request);
  }

  release(barrier: string): void {
    this.send(FrameType.release, { barrier });
  }

  private send(type: FrameType, body: unknown): void {
    if (!this.closed) this.connection.send(encodeJsonFrame(type, body));
  }

  private onData(chunk: Uint8Array): void {
    if (this.closed) return;
    this.lastHeardMs = this.clock.monotonicMs();
    try {
      this.decoder.push(chunk, (frame) => this.onFrame(frame));
    } catch (error) {
      this.refuse(error);
    }
  }

  private refuse(error: unknown): void {
    if (!isTidemarkError(error)) throw error;
    this.close(error.code, error.message);
  }

  private onFrame(frame: Frame): void {
    if (this.closed) return;
    if (this.gate === undefined || this.group === undefined) {
      if (this.greeting) throw unexpected(frame.type);
      this.greeting = true;
      void this.greet(parseFrame(helloSchema, frame)).catch((error: unknown) => this.refuse(error));
      return;
    }
    switch (frame.type) {
      case FrameType.block:
        this.onBlock(this.group, this.gate, frame.payload);
        break;
      case FrameType.digests: {
        const delta = (this.deltaSync ??= new DeltaSync(this.group.delta, (pieces) => this.sendPieces(pieces)));
        this.group.ingest.pushTask(this, () => delta.answer(frame.payload));
        break;
      }
      case FrameType.held: {
        const held = parseFrame(heldSchema, frame);
        this.group.barrier.held(this.stream, held.barrier, held.sequence);
        break;
      }
      case FrameType.released: {
        const released = parseFrame(releasedSchema, frame);
        this.group.barrier.released(this.stream, released.barrier, released.unbroken);
        break;
      }
      case FrameType.offer:
        this.definitions(this.group).offered(parseFrame(offerSchema, frame));
        break;
      case FrameType.definition:
        this.definitions(this.group).arrived(decodeDefinition(frame.payload));
        break;
      case FrameType.verdict:
        void this.onVerdict(this.group, parseFrame(verdictSchema, frame)).catch((error: unknown) => this.refuse(error));
        break;
      case FrameType.ping:
        this.onPing(this.group, parseFrame(pingSchema, frame));
        break;
      case FrameType.pong:
        break;
      default:
        throw unexpected(frame.type);
    }
  }

  private async greet(hello: Hello): Promise<void> {
    if (hello.stream !== this.peerName) {
      throw new TidemarkError('peer-refused', `The certificate is of ${this.peerName}, the stream is ${hello.stream}.`);
    }
    const group = this.lookup(hello.group);
    const welcome = await group.admit(hello, this);
    if (this.closed) {
      group.left(this);
      return;
    }
    this.group = group;
    this.stream = welcome.stream;
    this.incarnation = welcome.incarnation;
    this.gate = new ContiguityGate(welcome.durableSequence);
    this.decoder.accept(sourceFrames);
    this.send(FrameType.welcome, welcome);
    this.keepAlive();
  }

  private keepAlive(): void {
    this.timer.cancel();
    this.timer = this.clock.after(ackIntervalMs, () => {
      if (this.clock.monotonicMs() - this.lastHeardMs > silenceMsMax && !this.paused) {
        this.close('peer-unreachable', 'Nothing was heard from the source for 20 s.');
        return;
      }
      this.rateSamples.push({ atMs: this.clock.monotonicMs(), bytes: this.receivedBytes });
      if (this.rateSamples.length > rateSampleCountMax) this.rateSamples.shift();
      this.sendAck();
      this.deltaSync?.tick();
      this.keepAlive();
    });
  }

  private onBlock(group: SessionGroup, gate: ContiguityGate, payload: Uint8Array): void {
    const block = decodeBlock(payload);
    if (block.header.stream !== this.stream || block.header.incarnation !== this.incarnation) {
      throw new TidemarkError('stale-incarnation', 'A block belongs to another stream or incarnation.');
    }
    this.blockCount++;
    this.receivedBytes += payload.length;
    if (gate.admit(block.header)) group.ingest.pushBlock(this, block);
  }

  /** The least difference seen lately is nearest to the clocks' offset: the rest is the way of the ping. */
  private onPing(group: SessionGroup, ping: { id: number; wallMs: number }): void {
    const wallMs = this.clock.wallMs();
    this.send(FrameType.pong, { id: ping.id, wallMs });
    this.clockSamples.push(wallMs - ping.wallMs);
    if (this.clockSamples.length > clockSampleCountMax) this.clockSamples.shift();
    group.observeSourceClock(this.clockBehindMs ?? 0);
  }

  private async onVerdict(group: SessionGroup, verdict: Verdict): Promise<void> {
    await group.keepVerdict(this.stream, verdict);
    this.send(FrameType.verdictKept, { checkpoint: verdict.checkpoint });
  }

  private definitions(group: SessionGroup): DefinitionIntake {
    this.intake ??= new DefinitionIntake(group.definitions, (state) => this.send(FrameType.definitionState, state));
    return this.intake;
  }

  private sendPieces(pieces: readonly Uint8Array[]): void {
    if (!this.closed) this.connection.send(pieces);
  }

  private finish(reason: string): void {
    if (this.closed) return;
    this.closed = true;
    this.timer.cancel();
    this.deltaSync?.close();
    this.connection.close(reason);
    this.group?.left(this);
  }
}

function unexpected(type: FrameType): TidemarkError {
  return new TidemarkError('protocol-error', `Frame type ${type} is not expected now.`);
}
