/**
 * Frames of the replication stream (layout in messages.ts): encoding, and an incremental decoder for untrusted bytes.
 *
 * The decoder holds at most one payload under way; a frame is refused from its header alone when its type is unknown or
 * not accepted here, its reserved field is not 0 or its length is over `payloadBytesMax` of the type. Every payload byte
 * is copied once, however the network cuts the stream. After a refusal the decoder refuses everything.
 */
import type { z } from 'zod';
import { invariant } from '../core/invariant.js';
import { TidemarkError } from '../core/errors.js';
import { FrameType, frameHeaderBytes, payloadBytesMax } from './messages.js';

const magic = 0x54;

/** A whole frame. `payload` is memory of its own, the receiver's from now on. */
export interface Frame {
  readonly type: FrameType;
  readonly payload: Uint8Array;
}

/** Header and payload pieces, ready for `Connection.send`. */
export function encodeFrame(type: FrameType, payload: readonly Uint8Array[]): Uint8Array[] {
  let payloadBytes = 0;
  for (const piece of payload) payloadBytes += piece.length;
  invariant(payloadBytes <= payloadBytesMax[type], `frame of type ${type} over its bound`);
  const header = new Uint8Array(frameHeaderBytes);
  header[0] = magic;
  header[1] = type;
  new DataView(header.buffer).setUint32(4, payloadBytes, true);
  return [header, ...payload];
}

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true });

/** A frame with a JSON payload, in one piece. */
export function encodeJsonFrame(type: FrameType, value: unknown): Uint8Array[] {
  const text = encoder.encode(JSON.stringify(value));
  return [Buffer.concat(encodeFrame(type, [text]))];
}

/** The JSON payload of a frame, checked by its schema. Throws `protocol-error`. */
export function parseFrame<T>(schema: z.ZodType<T>, frame: Frame): T {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(frame.payload));
  } catch (error) {
    throw refusal(`payload of type ${frame.type} is no JSON`, error);
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw refusal(`payload of type ${frame.type}: ${issue?.path.join('.') ?? ''} ${issue?.message ?? 'invalid'}`);
}

const knownTypes: ReadonlySet<number> = new Set(Object.values(FrameType));

/** Cuts arbitrary chunks into frames. One instance a connection and direction. */
export class FrameDecoder {
  private readonly header = new Uint8Array(frameHeaderBytes);
  private headerFilled = 0;
  private type: FrameType = FrameType.ping;
  private payload: Uint8Array | undefined;
  private payloadFilled = 0;
  private broken: TidemarkError | undefined;

  private accepts: ReadonlySet<FrameType> | undefined;

  /** `accepts`: the types that the peer may send; all when left out. */
  constructor(accepts?: ReadonlySet<FrameType>) {
    this.accepts = accepts;
  }

  /** Bytes of an unfinished frame that were received. */
  get bufferedBytes(): number {
    return this.headerFilled + this.payloadFilled;
  }

  /** Changes what the peer may send from the next header on (for instance: everything after `hello`). */
  accept(types: ReadonlySet<FrameType> | undefined): void {
    this.accepts = types;
  }

  /** Calls `onFrame` for every frame that this chunk completes, in order. Throws `protocol-error`. */
  push(chunk: Uint8Array, onFrame: (frame: Frame) => void): void {
    if (this.broken !== undefined) throw this.broken;
    let at = 0;
    while (at < chunk.length || (this.payload !== undefined && this.payload.length === 0)) {
      if (this.payload === undefined) {
        at = this.takeHeader(chunk, at);
        if (this.headerFilled < frameHeaderBytes) return;
        this.payload = Buffer.allocUnsafeSlow(this.openPayload());
      }
      const take = Math.min(chunk.length - at, this.payload.length - this.payloadFilled);
      this.payload.set(chunk.subarray(at, at + take), this.payloadFilled);
      at += take;
      this.payloadFilled += take;
      if (this.payloadFilled === this.payload.length) this.finish(this.payload, onFrame);
    }
  }

  private takeHeader(chunk: Uint8Array, at: number): number {
    const take = Math.min(chunk.length - at, frameHeaderBytes - this.headerFilled);
    this.header.set(chunk.subarray(at, at + take), this.headerFilled);
    this.headerFilled += take;
    return at + take;
  }

  /** Checks the header; returns the payload's length. */
  private openPayload(): number {
    const view = new DataView(this.header.buffer);
    const type = view.getUint8(1);
    const lengthBytes = view.getUint32(4, true);
    if (view.getUint8(0) !== magic) throw this.refuse('magic');
    if (!knownTypes.has(type)) throw this.refuse(`unknown type ${type}`);
    this.type = type as FrameType;
    if (this.accepts?.has(this.type) === false) throw this.refuse(`type ${type} is not expected here`);
    if (view.getUint16(2, true) !== 0) throw this.refuse('reserved field');
    if (lengthBytes > payloadBytesMax[this.type])
      throw this.refuse(`type ${type} with ${lengthBytes} bytes is over its bound`);
    return lengthBytes;
  }

  private finish(payload: Uint8Array, onFrame: (frame: Frame) => void): void {
    this.payload = undefined;
    this.payloadFilled = 0;
    this.headerFilled = 0;
    onFrame({ type: this.type, payload });
  }

  private refuse(what: string): TidemarkError {
    this.broken = refusal(what);
    return this.broken;
  }
}

function refusal(what: string, cause?: unknown): TidemarkError {
  return new TidemarkError('protocol-error', `Bad frame: ${what}.`, cause === undefined ? {} : { cause });
}
