/**
 * One connection to a target: hello and its answer, frames both ways, keep-alive, the estimate of the peer's clock.
 * Knows nothing of queues; ends exactly once, with a reason.
 */
import type { z } from 'zod';
import type { Clock, Timer } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { Connection } from '../core/transport.js';
import { encodeDefinition, type DefinitionBlob } from '../stream/definitions.js';
import { decodeNeed, encodeDigests, type DigestsMessage, type NeedMessage } from '../stream/digests.js';
import { encodeFrame, encodeJsonFrame, FrameDecoder, parseFrame, type Frame } from '../stream/frame.js';
import {
  ackSchema,
  definitionStateSchema,
  epochSchema,
  FrameType,
  holdSchema,
  pingSchema,
  pongSchema,
  refuseSchema,
  releaseSchema,
  verdictKeptSchema,
  welcomeSchema,
  type Ack,
  type DefinitionState,
  type Hello,
  type Verdict,
  type Welcome,
} from '../stream/messages.js';
import { bytesOfBlock, type EncodedBlock } from './encoded-block.js';

export type Hold = z.infer<typeof holdSchema>;

export interface SessionEvents {
  ack(ack: Ack): void;
  need(message: NeedMessage): void;
  repair(message: NeedMessage): void;
  hold(hold: Hold): void;
  release(barrier: string): void;
  definitionState(state: DefinitionState): void;
  verdictKept(checkpoint: string): void;
  /** The socket can take more. */
  drained(): void;
}

/** Why a session ended; `code`: what the target refused with, or our own. */
export interface SessionEnd {
  readonly code: string;
  readonly message: string;
}

const beforeWelcome: ReadonlySet<FrameType> = new Set([FrameType.welcome, FrameType.refuse, FrameType.epoch]);
const afterWelcome: ReadonlySet<FrameType> = new Set([
  FrameType.ack,
  FrameType.ping,
  FrameType.pong,
  FrameType.hold,
  FrameType.release,
  FrameType.need,
  FrameType.repair,
  FrameType.definitionState,
  FrameType.verdictKept,
  FrameType.epoch,
  FrameType.refuse,
]);
const missedPingsMax = 3;
/** Nothing more is handed to a socket that holds so many bytes: Node encrypts all of them in one turn, and writes wait. */
const socketQueueBytes = 256 * 1024;

export class Session {
  private readonly connection: Connection;
  private readonly clock: Clock;
  private readonly events: SessionEvents;
  private readonly keepAliveMs: number;
  private readonly sourceTimeMs: () => number;
  private readonly decoder = new FrameDecoder(beforeWelcome);
  private readonly abort = new AbortController();
  private timer: Timer | undefined;
  private pingId = 0;
  private pings = new Map<number, number>();
  private leastRoundTripMs = Infinity;
  private welcomed: ((welcome: Welcome) => void) | undefined;
  private readonly endedPromise: Promise<SessionEnd>;
  private resolveEnded: (end: SessionEnd) => void = () => undefined;
  end: SessionEnd | undefined;
  /** The target's wall clock minus our source time, by the ping of the least round trip. */
  clockOffsetMs: number | undefined;
  sentBytes = 0;

  constructor(
    connection: Connection,
    clock: Clock,
    events: SessionEvents,
    keepAliveMs: number,
    sourceTimeMs: () => number,
  ) {
    this.connection = connection;
    this.clock = clock;
    this.events = events;
    this.keepAliveMs = keepAliveMs;
    this.sourceTimeMs = sourceTimeMs;
    this.endedPromise = new Promise((resolve) => (this.resolveEnded = resolve));
    connection.onClose((reason) => this.finish({ code: 'peer-unreachable', message: reason }));
    connection.onDrain(() => events.drained());
    connection.onData((chunk) => this.onData(chunk));
  }

  /** Aborts when the session ends. */
  get signal(): AbortSignal {
    return this.abort.signal;
  }

  get ended(): Promise<SessionEnd> {
    return this.endedPromise;
  }

  get hasRoom(): boolean {
    return this.end === undefined && this.connection.queuedBytes < socketQueueBytes;
  }

  /** Resolves with the welcome; undefined when the session ended instead. */
  async greet(hello: Hello): Promise<Welcome | undefined> {
    const welcome = new Promise<Welcome>((resolve) => (this.welcomed = resolve));
    this.connection.send(encodeJsonFrame(FrameType.hello, hello));
    const tooLate = this.clock.after(this.keepAliveMs * missedPingsMax, () =>
      this.close('peer-unreachable', 'The target did not answer the hello.'),
    );
    const answer = await Promise.race([welcome, this.ended.then(() => undefined)]);
    tooLate.cancel();
    if (answer !== undefined && this.end === undefined) this.ping();
    return this.end === undefined ? answer : undefined;
  }

  sendBlock(block: EncodedBlock): void {
    this.sentBytes += bytesOfBlock(block);
    this.connection.send(encodeFrame(FrameType.block, block));
  }

  sendDigests(message: DigestsMessage): void {
    this.connection.send(encodeFrame(FrameType.digests, encodeDigests(message)));
  }

  sendOffer(hashes: readonly string[]): void {
    this.connection.send(encodeJsonFrame(FrameType.offer, { hashes }));
  }

  sendDefinition(blob: DefinitionBlob): void {
    this.connection.send(encodeFrame(FrameType.definition, encodeDefinition(blob)));
  }

  sendVerdict(verdict: Verdict): void {
    this.connection.send(encodeJsonFrame(FrameType.verdict, verdict));
  }

  sendHeld(barrier: string, sequence: number, sourceTimeMs: number): void {
    this.connection.send(encodeJsonFrame(FrameType.held, { barrier, sequence, sourceTimeMs }));
  }

  sendReleased(barrier: string, unbroken: boolean): void {
    this.connection.send(encodeJsonFrame(FrameType.released, { barrier, unbroken }));
  }

  close(code: string, message: string): void {
    this.finish({ code, message });
    this.connection.close(`${code}: ${message}`);
  }

  private ping(): void {
    if (this.end !== undefined) return;
    if (this.pings.size >= missedPingsMax) {
      this.close('peer-unreachable', 'The target did not answer three pings.');
      return;
    }
    const id = this.pingId++;
    this.pings.set(id, this.clock.monotonicMs());
    this.connection.send(encodeJsonFrame(FrameType.ping, { id, wallMs: this.sourceTimeMs() }));
    this.timer = this.clock.after(this.keepAliveMs, () => this.ping());
  }

  private onData(chunk: Uint8Array): void {
    if (this.end !== undefined) return;
    try {
      this.decoder.push(chunk, (frame) => {
        if (this.end === undefined) this.onFrame(frame);
      });
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      this.close(error.code, error.message);
    }
  }

  private onFrame(frame: Frame): void {
    switch (frame.type) {
      case FrameType.welcome: {
        const welcome = parseFrame(welcomeSchema, frame);
        this.decoder.accept(afterWelcome);
        this.welcomed?.(welcome);
        return;
      }
      case FrameType.refuse: {
        const { code, message } = parseFrame(refuseSchema, frame);
        this.close(code, message);
        return;
      }
      case FrameType.epoch: {
        const { epoch, reason } = parseFrame(epochSchema, frame);
        this.close('stale-epoch', `The target moved to epoch ${epoch}: ${reason}`);
        return;
      }
      case FrameType.ack:
        this.events.ack(parseFrame(ackSchema, frame));
        return;
      case FrameType.need:
        this.events.need(decodeNeed(frame.payload));
        return;
      case FrameType.repair:
        this.events.repair(decodeNeed(frame.payload));
        return;
      case FrameType.definitionState:
        this.events.definitionState(parseFrame(definitionStateSchema, frame));
        return;
      case FrameType.verdictKept:
        this.events.verdictKept(parseFrame(verdictKeptSchema, frame).checkpoint);
        return;
      case FrameType.hold:
        this.events.hold(parseFrame(holdSchema, frame));
        return;
      case FrameType.release:
        this.events.release(parseFrame(releaseSchema, frame).barrier);
        return;
      case FrameType.ping: {
        const { id } = parseFrame(pingSchema, frame);
        this.connection.send(encodeJsonFrame(FrameType.pong, { id, wallMs: this.sourceTimeMs() }));
        return;
      }
      case FrameType.pong:
        this.onPong(parseFrame(pongSchema, frame));
        return;
      default:
        throw new TidemarkError('protocol-error', `Frame type ${frame.type} is not expected from a target.`);
    }
  }

  private onPong(pong: { id: number; wallMs: number }): void {
    const sentMs = this.pings.get(pong.id);
    if (sentMs === undefined) return;
    this.pings.clear();
    const roundTripMs = this.clock.monotonicMs() - sentMs;
    if (roundTripMs > this.leastRoundTripMs) return;
    this.leastRoundTripMs = roundTripMs;
    this.clockOffsetMs = pong.wallMs - (this.sourceTimeMs() - roundTripMs / 2);
  }

  private finish(end: SessionEnd): void {
    if (this.end !== undefined) return;
    this.end = end;
    this.timer?.cancel();
    this.abort.abort(new TidemarkError('peer-unreachable', end.message));
    this.resolveEnded(end);
  }
}
