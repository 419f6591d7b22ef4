/** One page of a digest file in memory: digests of 253 chunks (15.8 MiB of disk). Layout and rules in REPLICA.md. */
import { crc32 } from 'node:zlib';
import { digestBytes } from '../stream/messages.js';
import { damagedDigest, digestsEqual, isZero, zeroDigest } from './digest.js';

export const pageBytes = 4096;
export const chunksPerPage = 253;
const digestsStart = 48;
const unsettledStart = 16;
const magic = 0x504d5452; // RTMP

export class DigestPage {
  readonly index: number;
  readonly bytes: Buffer;
  generation: number;
  /** The slot (0, 1) that is known to hold the newest durable state. */
  durableSlot: number;
  /** Memory is ahead of the disk. */
  dirty = false;
  /** The other slot does not hold the same state yet. */
  mirrorDue: boolean;
  /** Held by a window; never evicted. */
  pinCount = 0;
  /** Second-chance eviction. */
  referenced = true;
  readonly #verified = new Uint8Array(32);
  #verifiedSinceMs = -Infinity;

  constructor(index: number, bytes: Buffer, state: { generation: number; durableSlot: number; mirrorDue: boolean }) {
    this.index = index;
    this.bytes = bytes;
    this.generation = state.generation;
    this.durableSlot = state.durableSlot;
    this.mirrorDue = state.mirrorDue;
  }

  /** A view onto the digest of slot `at` (0…252); copy it to keep it. */
  digest(at: number): Uint8Array {
    return this.bytes.subarray(digestsStart + at * digestBytes, digestsStart + (at + 1) * digestBytes);
  }

  isZero(at: number): boolean {
    const start = digestsStart + at * digestBytes;
    for (let word = start; word < start + digestBytes; word += 4) {
      if (this.bytes.readInt32LE(word) !== 0) return false;
    }
    return true;
  }

  isDamaged(at: number): boolean {
    return digestsEqual(this.digest(at), damagedDigest);
  }

  setDigest(at: number, digest: Uint8Array): void {
    this.bytes.set(digest, digestsStart + at * digestBytes);
    this.clearVerified(at);
    this.dirty = true;
  }

  isUnsettled(at: number): boolean {
    return (this.bytes[unsettledStart + (at >> 3)]! & (1 << (at & 7))) !== 0;
  }

  setUnsettled(at: number, unsettled: boolean): void {
    const byte = unsettledStart + (at >> 3);
    const bit = 1 << (at & 7);
    this.bytes[byte] = unsettled ? this.bytes[byte]! | bit : this.bytes[byte]! & ~bit;
    this.clearVerified(at);
    this.dirty = true;
  }

  isVerified(at: number, nowMs: number, intervalMs: number): boolean {
    if (nowMs - this.#verifiedSinceMs >= intervalMs) return false;
    return (this.#verified[at >> 3]! & (1 << (at & 7))) !== 0;
  }

  /** The bits of a page expire together, `intervalMs` after the first was set. */
  setVerified(at: number, nowMs: number, intervalMs: number): void {
    if (nowMs - this.#verifiedSinceMs >= intervalMs) {
      this.#verified.fill(0);
      this.#verifiedSinceMs = nowMs;
    }
    this.#verified[at >> 3]! |= 1 << (at & 7);
  }

  clearVerified(at: number): void {
    this.#verified[at >> 3]! &= ~(1 << (at & 7));
  }

  /** A copy to write, under the page's present generation. */
  encode(): Buffer {
    this.bytes.writeUInt32LE(magic, 4);
    this.bytes.writeUInt32LE(this.generation, 8);
    this.bytes.writeUInt32LE(this.index, 12);
    this.bytes.writeUInt32LE(crc32(this.bytes.subarray(4)), 0);
    return Buffer.from(this.bytes);
  }
}

type SlotState = 'empty' | 'valid' | 'bad';

function slotState(slot: Buffer, index: number): SlotState {
  if (isZero(slot)) return 'empty';
  const good = crc32(slot.subarray(4)) === slot.readUInt32LE(0) && slot.readUInt32LE(4) === magic;
  return good && slot.readUInt32LE(12) === index ? 'valid' : 'bad';
}

/**
 * The page that two slots say: the newest valid one. Both empty: never written, all zeros. One torn beside an empty
 * one: the first write of the page was cut by a crash, all zeros. Both bad: damage, every chunk is refused.
 */
export function decodePage(pair: Buffer, index: number): DigestPage {
  const slots = [pair.subarray(0, pageBytes), pair.subarray(pageBytes, 2 * pageBytes)] as const;
  const states = slots.map((slot) => slotState(slot, index));
  const generations = slots.map((slot, at) => (states[at] === 'valid' ? slot.readUInt32LE(8) : -1));
  const newest = generations[1]! > generations[0]! ? 1 : 0;
  if (states[newest] === 'valid') {
    const same = generations[0] === generations[1];
    return new DigestPage(index, Buffer.from(slots[newest]), {
      generation: generations[newest]!,
      durableSlot: newest,
      mirrorDue: !same,
    });
  }
  const bytes = Buffer.alloc(pageBytes);
  const damaged = states.every((state) => state === 'bad');
  for (let at = 0; at < chunksPerPage; at++)
    bytes.set(damaged ? damagedDigest : zeroDigest, digestsStart + at * digestBytes);
  return new DigestPage(index, bytes, { generation: 0, durableSlot: states[0] === 'empty' ? 0 : 1, mirrorDue: false });
}
