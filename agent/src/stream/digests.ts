/** Payloads of the `digests` and `need` frames (layouts in messages.ts), both ways, checked on decoding. */
import { createHash } from 'node:crypto';
import { invariant } from '../core/invariant.js';
import { TidemarkError } from '../core/errors.js';
import { digestBytes, digestCountMax } from './messages.js';

const prefixBytes = 16;

/** Digests of `count` consecutive chunks of a disk, concatenated. */
export interface DigestsMessage {
  readonly requestId: number;
  readonly disk: number;
  /** Index of the first chunk (chunks of `digestChunkBytes`). */
  readonly firstChunk: number;
  readonly digests: Uint8Array;
}

/** Which chunks of one `digests` request differ. */
export interface NeedMessage {
  readonly requestId: number;
  readonly disk: number;
  readonly firstChunk: number;
  readonly count: number;
  /** Bit i (least significant first) set: chunk `firstChunk + i` is needed. */
  readonly bits: Uint8Array;
}

/** True when every byte is 0. */
export function isZero(bytes: Uint8Array): boolean {
  const lengthBytes = bytes.length;
  if (lengthBytes === 0) return true;
  if (bytes[0] !== 0) return false;
  // memcmp of the bytes with themselves shifted by one: all equal to the first, which is 0.
  return Buffer.compare(bytes.subarray(1), bytes.subarray(0, lengthBytes - 1)) === 0;
}

/** SHA-256 cut to 16 bytes; all zeros for a chunk of zeros. */
export function chunkDigest(chunk: Uint8Array): Uint8Array {
  if (isZero(chunk)) return new Uint8Array(digestBytes);
  return createHash('sha256').update(chunk).digest().subarray(0, digestBytes);
}

function prefix(requestId: number, disk: number, count: number, firstChunk: number): Uint8Array {
  invariant(count >= 1 && count <= digestCountMax, 'digest count');
  const bytes = new Uint8Array(prefixBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, requestId, true);
  view.setUint16(4, disk, true);
  view.setUint16(6, count, true);
  view.setBigUint64(8, BigInt(firstChunk), true);
  return bytes;
}

function readPrefix(payload: Uint8Array): { requestId: number; disk: number; count: number; firstChunk: number } {
  if (payload.length < prefixBytes) throw refusal('cut short');
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const firstChunk = Number(view.getBigUint64(8, true));
  const count = view.getUint16(6, true);
  if (count < 1 || count > digestCountMax) throw refusal('count');
  // 2^36 chunks of 64 KiB: far above any disk, so that firstChunk × chunk size stays a safe integer.
  if (firstChunk + count > 2 ** 36) throw refusal('first chunk');
  return { requestId: view.getUint32(0, true), disk: view.getUint16(4, true), count, firstChunk };
}

export function encodeDigests(message: DigestsMessage): Uint8Array[] {
  const count = message.digests.length / digestBytes;
  return [prefix(message.requestId, message.disk, count, message.firstChunk), message.digests];
}

/** Throws `protocol-error`. */
export function decodeDigests(payload: Uint8Array): DigestsMessage {
  const { requestId, disk, count, firstChunk } = readPrefix(payload);
  if (payload.length !== prefixBytes + count * digestBytes) throw refusal('length');
  return { requestId, disk, firstChunk, digests: payload.subarray(prefixBytes) };
}

export function encodeNeed(message: NeedMessage): Uint8Array[] {
  invariant(message.bits.length === Math.ceil(message.count / 8), 'need bits');
  return [prefix(message.requestId, message.disk, message.count, message.firstChunk), message.bits];
}

/** Throws `protocol-error`. */
export function decodeNeed(payload: Uint8Array): NeedMessage {
  const { requestId, disk, count, firstChunk } = readPrefix(payload);
  if (payload.length !== prefixBytes + Math.ceil(count / 8)) throw refusal('length');
  const bits = payload.subarray(prefixBytes);
  const spare = bits.length * 8 - count;
  if (spare > 0 && (bits[bits.length - 1] as number) >> (8 - spare) !== 0) throw refusal('spare bits');
  return { requestId, disk, count, firstChunk, bits };
}

function refusal(what: string): TidemarkError {
  return new TidemarkError('protocol-error', `Bad digests message: ${what}.`);
}
