/** One end of a simulated connection. */
import { releaseBytes } from '../../../agent/src/core/release-bytes.js';
import type { Connection, PeerIdentity } from '../../../agent/src/core/transport.js';
import type { IoOwner } from './sim-disk.js';
import type { Arrival, SimPipe } from './sim-pipe.js';
import type { SimScheduler } from './sim-scheduler.js';

/** `onDrain` is called when the queue comes down to this. */
const lowWaterBytes = 64 * 1024;

export class SimConnection implements Connection {
  readonly peer: PeerIdentity;
  readonly owner: IoOwner;
  readonly #scheduler: SimScheduler;
  readonly #inbox: Arrival[] = [];
  #out: SimPipe | undefined;
  #in: SimPipe | undefined;
  #aboveLowWater = false;
  #paused = false;
  #takePlanned = false;
  #reason: string | undefined;
  #dataHandler: ((chunk: Uint8Array) => void) | undefined;
  #drainHandler: (() => void) | undefined;
  #closeHandler: ((reason: string) => void) | undefined;

  constructor(scheduler: SimScheduler, owner: IoOwner, peer: PeerIdentity) {
    this.#scheduler = scheduler;
    this.owner = owner;
    this.peer = peer;
  }

  /** Joins this end to its two pipes. */
  join(out: SimPipe, incoming: SimPipe): void {
    this.#out = out;
    this.#in = incoming;
    out.onSpace = () => this.#onSpace();
  }

  /** True until somebody closed it or this end learnt of a cut. */
  get isOpen(): boolean {
    return this.#reason === undefined;
  }

  get queuedBytes(): number {
    return this.#out!.queuedBytes;
  }

  send(pieces: readonly Uint8Array[]): void {
    if (!this.isOpen || !this.owner.alive) return;
    this.#out!.push(pieces);
    if (this.queuedBytes > lowWaterBytes) this.#aboveLowWater = true;
  }

  onData(handler: (chunk: Uint8Array) => void): void {
    this.#dataHandler = handler;
    this.#planTake();
  }

  onDrain(handler: () => void): void {
    this.#drainHandler = handler;
  }

  onClose(handler: (reason: string) => void): void {
    this.#closeHandler = handler;
    if (!this.isOpen) this.#announceClose();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#planTake();
  }

  close(reason: string): void {
    if (!this.owner.alive) return;
    this.finish(reason);
  }

  /** Closed by this end, by the peer or by a fault; what is queued still goes out unless the pipe is broken. */
  finish(reason: string): void {
    if (!this.isOpen) return;
    this.#reason = reason;
    this.#out!.end();
    this.#discardInbox();
    if (this.#closeHandler !== undefined) this.#announceClose();
  }

  receive(arrival: Arrival): void {
    if (!this.isOpen || !this.owner.alive) {
      if (arrival !== 'end') this.#in!.taken(arrival.length);
      return;
    }
    this.#inbox.push(arrival);
    this.#take();
  }

  #planTake(): void {
    if (this.#takePlanned || this.#inbox.length === 0) return;
    this.#takePlanned = true;
    this.#scheduler.after(0, () => {
      this.#takePlanned = false;
      this.#take();
    });
  }

  /** Hands over what arrived; the handler may pause or close in the middle. */
  #take(): void {
    while (this.#inbox.length > 0 && !this.#paused && this.#dataHandler !== undefined) {
      if (!this.isOpen || !this.owner.alive) return;
      const arrival = this.#inbox.shift()!;
      if (arrival === 'end') {
        this.finish('closed by the peer');
        return;
      }
      this.#in!.taken(arrival.length);
      // The handler's until it returns, as the contract says.
      const chunk = new Uint8Array(arrival);
      this.#dataHandler(chunk);
      releaseBytes(chunk);
    }
  }

  #discardInbox(): void {
    for (const arrival of this.#inbox.splice(0)) if (arrival !== 'end') this.#in!.taken(arrival.length);
  }

  #onSpace(): void {
    if (!this.#aboveLowWater || this.queuedBytes > lowWaterBytes) return;
    this.#aboveLowWater = false;
    if (this.isOpen && this.owner.alive) this.#drainHandler?.();
  }

  #announceClose(): void {
    this.#scheduler.after(0, () => {
      if (this.owner.alive) this.#closeHandler?.(this.#reason!);
    });
  }
}
