/**
 * The transmission phase of one client: requests in, backend calls, replies out.
 *
 * Bytes arrive in memory shared by all connections (`receive`) and small payloads are copied once, to a slab; the rest
 * of a long payload is read by the socket straight into its slab (`directTarget`, `receivedDirect`). What the backend
 * completes in the same turn is answered in one write at the end of the batch.
 *
 * Stalled: no further request is looked at, the socket is paused and the bytes at hand are held, until requests in
 * flight, queued replies or slab memory allow it. Stopping: input is ignored, requests in flight end, then the socket is
 * ended. A request is counted in flight only when its backend call returned a promise.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../core/clock.js';
import { NbdError } from './backend.js';
import {
  encodeErrorChunk,
  encodeStatusChunk,
  putChunkHeader,
  putSimpleReply,
  readRequest,
  type Request,
} from './codec.js';
import { errnoOf, wireErrorOf } from './errno.js';
import type { PendingWrite, ServedExport } from './export.js';
import type { NbdLimits } from './limits.js';
import * as p from './protocol.js';
import { ReplyQueue } from './reply-queue.js';
import type { SlabPayload, SlabPool } from './slab.js';
import { validateRequest } from './validate.js';

/** A rest of a payload at least this long is read without a copy. */
const directBytesMin = 32 * 1024;

export interface TransmissionOptions {
  readonly target: ServedExport;
  readonly structured: boolean;
  readonly status: boolean;
  readonly slabs: SlabPool;
  readonly limits: NbdLimits;
  readonly clock: Clock;
  /** A backend failed in a way that is no expected failure. */
  readonly onFault: (error: unknown) => void;
  /** Called once, when the socket is closed and the backend has no request of this client. */
  readonly onGone: () => void;
}

export class Transmission {
  readonly #socket: Socket;
  readonly #o: TransmissionOptions;
  readonly #replies: ReplyQueue;
  readonly #header = Buffer.alloc(p.requestBytes);
  #headerBytes = 0;
  /** The WRITE whose payload is being received, or waits for memory when there is no `#payload`. */
  #request: Request | undefined;
  #payload: SlabPayload | undefined;
  /** Set while `#request` waits for memory. */
  #waiting: PendingWrite | undefined;
  #filledBytes = 0;
  /** Payload bytes of a refused WRITE still to come. */
  #skipBytes = 0;
  #held: Buffer | undefined;
  #heldAt = 0;
  #stalled = false;
  #stopping = false;
  #closed = false;
  #gone = false;
  #inFlight = 0;
  #inFlightBytes = 0;
  #flushScheduled = false;
  readonly #onMemory = (): void => this.#proceed();

  constructor(socket: Socket, options: TransmissionOptions) {
    this.#socket = socket;
    this.#o = options;
    this.#replies = new ReplyQueue(socket);
    socket.on('drain', () => this.#proceed());
  }

  /** Takes a chunk; its memory may change after the return. */
  receive(chunk: Buffer): void {
    if (this.#stopping || this.#closed) return;
    if (this.#held === undefined) {
      this.#consume(chunk, 0, true);
    } else {
      this.#held = Buffer.concat([this.#held.subarray(this.#heldAt), chunk]);
      this.#heldAt = 0;
    }
    this.#replies.flush();
    if (this.#stalled) this.#proceed();
  }

  /** Where the socket should read next, when that is not the shared memory. */
  directTarget(): Buffer | undefined {
    if (this.#payload === undefined || this.#held !== undefined) return undefined;
    const rest = this.#payload.bytes.length - this.#filledBytes;
    return rest < directBytesMin ? undefined : this.#payload.bytes.subarray(this.#filledBytes);
  }

  /** `lengthBytes` were read into what `directTarget` last returned. */
  receivedDirect(lengthBytes: number): void {
    this.#filledBytes += lengthBytes;
    if (this.#stopping || this.#closed || this.#filledBytes < (this.#payload?.bytes.length ?? 0)) return;
    this.#writeReceived();
    this.#replies.flush();
  }

  /** Ends the connection when the requests in flight are answered; what the client sends is ignored. */
  stop(): void {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#held = undefined;
    this.#socket.resume();
    this.#endIfIdle();
  }

  /** The socket is closed: nothing more comes and nothing more can be answered. */
  closed(): void {
    this.#closed = true;
    this.#held = undefined;
    this.#o.slabs.cancelWait(this.#onMemory);
    this.#memoryHere();
    this.#payload?.release();
    this.#payload = undefined;
    this.#endIfIdle();
  }

  #endIfIdle(): void {
    if (this.#inFlight > 0 || this.#gone) return;
    if (!this.#closed) {
      this.#replies.flush();
      if (!this.#socket.writableEnded) this.#socket.end();
      return;
    }
    this.#gone = true;
    this.#o.onGone();
  }

  #mayTakeRequest(): boolean {
    const limits = this.#o.limits;
    return (
      this.#inFlight < limits.inFlightMax &&
      this.#inFlightBytes < limits.inFlightBytesMax &&
      this.#replies.queuedBytes < limits.queuedReplyBytesMax
    );
  }

  /** Goes on after a stall, as far as the limits allow. */
  #proceed(): void {
    if (!this.#stalled || this.#stopping || this.#closed) return;
    while (this.#stalled && this.#mayTakeRequest()) {
      if (this.#request !== undefined && !this.#allocatePayload(this.#request)) break;
      this.#stalled = false;
      const held = this.#held;
      this.#held = undefined;
      if (held !== undefined) this.#consume(held, this.#heldAt, false);
      this.#replies.flush();
    }
    if (!this.#stalled) this.#socket.resume();
  }

  #stall(chunk: Buffer, at: number, shared: boolean): void {
    this.#stalled = true;
    this.#socket.pause();
    this.#held = shared ? Buffer.from(chunk.subarray(at)) : chunk;
    this.#heldAt = shared ? 0 : at;
  }

  #consume(chunk: Buffer, start: number, shared: boolean): void {
    const end = chunk.length;
    let at = start;
    while (at < end && !this.#stopping) {
      if (this.#skipBytes > 0) {
        const skipped = Math.min(this.#skipBytes, end - at);
        this.#skipBytes -= skipped;
        at += skipped;
      } else if (this.#payload !== undefined) {
        const taken = Math.min(this.#payload.bytes.length - this.#filledBytes, end - at);
        chunk.copy(this.#payload.bytes, this.#filledBytes, at, at + taken);
        this.#filledBytes += taken;
        at += taken;
        if (this.#filledBytes === this.#payload.bytes.length) this.#writeReceived();
      } else if (!this.#mayTakeRequest()) {
        this.#stall(chunk, at, shared);
        return;
      } else {
        const request = this.#takeHeader(chunk, at);
        at += Math.min(this.#consumedHeaderBytes, end - at);
        if (request === 'more') return;
        this.#begin(request);
        if (this.#request !== undefined && this.#payload === undefined) {
          this.#stall(chunk, at, shared);
          return;
        }
      }
    }
  }

  #consumedHeaderBytes = 0;

  #takeHeader(chunk: Buffer, at: number): Request | undefined | 'more' {
    if (this.#headerBytes === 0 && chunk.length - at >= p.requestBytes) {
      this.#consumedHeaderBytes = p.requestBytes;
      return readRequest(chunk, at);
    }
    const taken = Math.min(p.requestBytes - this.#headerBytes, chunk.length - at);
    chunk.copy(this.#header, this.#headerBytes, at, at + taken);
    this.#consumedHeaderBytes = taken;
    this.#headerBytes += taken;
    if (this.#headerBytes < p.requestBytes) return 'more';
    this.#headerBytes = 0;
    return readRequest(this.#header, 0);
  }

  #begin(request: Request | undefined): void {
    if (request === undefined) {
      this.#socket.destroy();
      this.#stopping = true;
      return;
    }
    if (request.command === p.command.disconnect) {
      this.stop();
      return;
    }
    const isWrite = request.command === p.command.write;
    if (isWrite && request.lengthBytes > p.payloadBytesMax) {
      this.#socket.destroy();
      this.#stopping = true;
      return;
    }
    const refused = validateRequest(request, this.#o.target.backend, this.#o.status);
    if (refused !== undefined) {
      if (isWrite) this.#skipBytes = request.lengthBytes;
      this.#fail(request, new NbdError(refused, 'the request is not valid for this export'));
    } else if (isWrite) {
      this.#request = request;
      this.#allocatePayload(request);
    } else {
      this.#dispatch(request);
    }
  }

  #allocatePayload(request: Request): boolean {
    this.#payload = this.#o.slabs.allocate(request.lengthBytes);
    this.#filledBytes = 0;
    if (this.#payload !== undefined) {
      this.#memoryHere();
      return true;
    }
    if (this.#waiting === undefined) {
      this.#waiting = { sinceMs: this.#o.clock.monotonicMs() };
      this.#o.target.pendingWrites.add(this.#waiting);
    }
    this.#o.slabs.onFree(this.#onMemory);
    return false;
  }

  #memoryHere(): void {
    if (this.#waiting === undefined) return;
    this.#o.target.pendingWrites.delete(this.#waiting);
    this.#waiting = undefined;
  }

  #writeReceived(): void {
    const request = this.#request;
    const payload = this.#payload;
    if (request === undefined || payload === undefined) return;
    this.#request = undefined;
    this.#payload = undefined;
    const { backend, counters } = this.#o.target;
    let done: Promise<void> | undefined;
    try {
      done = backend.write(request.offsetBytes, payload, (request.flags & p.commandFlag.fua) !== 0);
    } catch (error) {
      payload.release();
      this.#fail(request, error);
      return;
    }
    counters.writes++;
    counters.bytesWritten += request.lengthBytes;
    if (done === undefined) {
      payload.release();
      this.#replies.simple(0, request.cookieHigh, request.cookieLow);
    } else {
      const release = (): void => payload.release();
      this.#track(request, request.lengthBytes, true, done.finally(release));
    }
  }

  #dispatch(request: Request): void {
    const { backend, counters } = this.#o.target;
    const { command, offsetBytes, lengthBytes } = request;
    const fua = (request.flags & p.commandFlag.fua) !== 0;
    try {
      if (command === p.command.read) {
        counters.reads++;
        this.#read(request);
      } else if (command === p.command.flush) {
        counters.flushes++;
        this.#answer(request, backend.flush());
      } else if (command === p.command.trim) {
        counters.trims++;
        this.#answer(request, backend.trim(offsetBytes, lengthBytes, fua));
      } else if (command === p.command.writeZeroes) {
        counters.zeroes++;
        const mayTrim = (request.flags & p.commandFlag.noHole) === 0;
        this.#answer(request, backend.zero(offsetBytes, lengthBytes, mayTrim, fua));
      } else {
        counters.statuses++;
        this.#blockStatus(request);
      }
    } catch (error) {
      this.#fail(request, error);
    }
  }

  #answer(request: Request, done: Promise<void> | undefined): void {
    if (done === undefined) this.#replies.simple(0, request.cookieHigh, request.cookieLow);
    else this.#track(request, 0, true, done);
  }

  #read(request: Request): void {
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    const { backend, counters } = this.#o.target;
    const head = this.#o.structured ? p.dataChunkBytes : p.simpleReplyBytes;
    const reply = Buffer.allocUnsafe(head + lengthBytes);
    if (this.#o.structured) {
      const type = p.chunkType.offsetData;
      putChunkHeader(reply, 0, { done: true, type, cookieHigh, cookieLow, lengthBytes: 8 + lengthBytes });
      // The whole 8 bytes of the offset, as they came.
      reply.writeUInt32BE(Math.floor(offsetBytes / 0x1_0000_0000), p.chunkHeaderBytes);
      reply.writeUInt32BE(offsetBytes % 0x1_0000_0000, p.chunkHeaderBytes + 4);
    } else {
      putSimpleReply(reply, 0, 0, cookieHigh, cookieLow);
    }
    const answer = (): void => {
      counters.bytesRead += lengthBytes;
      this.#replies.whole(reply);
    };
    const done = backend.read(reply.subarray(head), offsetBytes);
    if (done === undefined) answer();
    else this.#track(request, lengthBytes, false, done, answer);
  }

  #blockStatus(request: Request): void {
    const one = (request.flags & p.commandFlag.reqOne) !== 0;
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    const asked = this.#o.target.backend.extents(offsetBytes, lengthBytes, one ? 1 : this.#o.limits.extentsMax);
    const answered = asked.then((found) => {
      const extents = one ? found.slice(0, 1) : found.slice(0, this.#o.limits.extentsMax);
      if (extents.length === 0) throw new NbdError('EIO', 'no extent at this offset');
      this.#replies.whole(encodeStatusChunk(extents, cookieHigh, cookieLow));
    });
    this.#track(request, 0, false, answered, () => undefined);
  }

  /** Answers when `done` settles; `answer` replaces the simple reply of success. */
  #track(request: Request, bytes: number, write: boolean, done: Promise<void>, answer?: () => void): void {
    this.#inFlight++;
    this.#inFlightBytes += bytes;
    const pending: PendingWrite | undefined = write ? { sinceMs: this.#o.clock.monotonicMs() } : undefined;
    if (pending !== undefined) this.#o.target.pendingWrites.add(pending);
    const settle = (): void => {
      this.#inFlight--;
      this.#inFlightBytes -= bytes;
      if (pending !== undefined) this.#o.target.pendingWrites.delete(pending);
      this.#scheduleFlush();
    };
    done.then(
      () => {
        if (answer === undefined) this.#replies.simple(0, request.cookieHigh, request.cookieLow);
        else answer();
        settle();
      },
      (error: unknown) => {
        this.#fail(request, error);
        settle();
      },
    );
  }

  #fail(request: Request, error: unknown): void {
    this.#o.target.counters.errors++;
    const name = wireErrorOf(error);
    if (name === undefined) this.#o.onFault(error);
    const errno = errnoOf(name ?? 'EIO');
    const { cookieHigh, cookieLow } = request;
    const chunked =
      this.#o.structured && (request.command === p.command.read || request.command === p.command.blockStatus);
    if (!chunked) this.#replies.simple(errno, cookieHigh, cookieLow);
    else
      this.#replies.whole(encodeErrorChunk(errno, error instanceof Error ? error.message : '', cookieHigh, cookieLow));
  }

  /** Answers of one turn of the event loop go out together. */
  #scheduleFlush(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    setImmediate(() => {
      this.#flushScheduled = false;
      if (this.#stopping || this.#closed) {
        this.#endIfIdle();
      } else {
        this.#replies.flush();
        this.#proceed();
      }
    });
  }
}
