/**
 * One direction of a simulated connection: bytes wait in the sender's queue, then in a window of the wire, arrive in
 * order in pieces of any size, and leave the window when the receiver takes them.
 */
import type { SimLink } from './sim-link.js';
import type { SimRandom } from './sim-random.js';
import type { SimScheduler } from './sim-scheduler.js';

/** Bytes on the wire or unread at the receiver: what kernels and cables hold. */
const windowBytes = 256 * 1024;
const chunkBytesMax = 64 * 1024;

/** What arrives: bytes, or the end of the stream. */
export type Arrival = Uint8Array | 'end';

export class SimPipe {
  readonly #scheduler: SimScheduler;
  readonly #random: SimRandom;
  readonly #link: SimLink;
  readonly #deliver: (arrival: Arrival) => void;
  readonly #queue: Uint8Array[] = [];
  /** Sent and not arrived, in order; the first `#dueCount` would have arrived but for a blocked link. */
  readonly #wire: Arrival[] = [];
  #dueCount = 0;
  #headOffset = 0;
  #queuedBytes = 0;
  #windowUsedBytes = 0;
  #lastArrivalMs = 0;
  #pumpPlanned = false;
  #ending = false;
  #broken = false;
  /** Called when queued bytes went to the wire. */
  onSpace: (() => void) | undefined;

  constructor(scheduler: SimScheduler, random: SimRandom, link: SimLink, deliver: (arrival: Arrival) => void) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.#link = link;
    this.#deliver = deliver;
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  push(pieces: readonly Uint8Array[]): void {
    for (const piece of pieces) {
      if (piece.length === 0) continue;
      this.#queue.push(piece);
      this.#queuedBytes += piece.length;
    }
    this.#planPump();
  }

  /** The end of the stream follows what is queued. */
  end(): void {
    this.#ending = true;
    this.#planPump();
  }

  /** From now on nothing arrives; what is under way is lost. The sender's queue only grows. */
  breakOff(): void {
    this.#broken = true;
  }

  /** The receiver took this much: the window opens. */
  taken(bytes: number): void {
    this.#windowUsedBytes -= bytes;
    this.#planPump();
  }

  #planPump(): void {
    if (this.#pumpPlanned || this.#broken) return;
    this.#pumpPlanned = true;
    this.#scheduler.after(0, () => this.#pump());
  }

  #pump(): void {
    this.#pumpPlanned = false;
    if (this.#broken) return;
    const before = this.#queuedBytes;
    while (this.#queuedBytes > 0 && this.#windowUsedBytes < windowBytes) {
      const most = this.#random.chance(0.1) ? 64 : chunkBytesMax;
      const chunk = this.#take(Math.min(1 + this.#random.int(most), this.#queuedBytes));
      this.#windowUsedBytes += chunk.length;
      this.#send(chunk);
    }
    if (this.#queuedBytes < before) this.onSpace?.();
    if (this.#ending && this.#queuedBytes === 0) {
      this.#ending = false;
      this.#send('end');
    }
  }

  #send(arrival: Arrival): void {
    const bytes = arrival === 'end' ? 40 : arrival.length;
    const dueMs = this.#link.transmit(bytes, this.#random);
    this.#lastArrivalMs = Math.max(this.#lastArrivalMs, dueMs);
    this.#wire.push(arrival);
    this.#scheduler.after(this.#lastArrivalMs - this.#scheduler.nowMs, () => {
      this.#dueCount += 1;
      this.#arrive();
    });
  }

  #arrive(): void {
    while (this.#dueCount > 0 && !this.#broken) {
      if (this.#link.blocked) {
        this.#link.whenOpen(() => this.#arrive());
        return;
      }
      this.#dueCount -= 1;
      this.#deliver(this.#wire.shift()!);
    }
  }

  /** Copies out of the queue, across the borders of the sender's pieces. */
  #take(bytes: number): Uint8Array {
    const chunk = new Uint8Array(bytes);
    let done = 0;
    let index = 0;
    while (done < bytes) {
      const piece = this.#queue[index]!;
      const step = Math.min(bytes - done, piece.length - this.#headOffset);
      chunk.set(piece.subarray(this.#headOffset, this.#headOffset + step), done);
      done += step;
      this.#headOffset += step;
      if (this.#headOffset < piece.length) continue;
      this.#headOffset = 0;
      index += 1;
    }
    this.#queue.splice(0, index);
    this.#queuedBytes -= bytes;
    return chunk;
  }
}
