/** One established TLS socket as a {@link Connection}. Reading starts when the data handler is set. */
import type { TLSSocket } from 'node:tls';
import { releaseBytes } from '../core/release-bytes.js';
import type { Connection, PeerIdentity } from '../core/transport.js';
import type { TlsLimits } from './tls-options.js';

export class TlsConnection implements Connection {
  readonly peer: PeerIdentity;
  readonly #socket: TLSSocket;
  readonly #limits: TlsLimits;
  #aboveLowWater = false;
  #paused = false;
  #reason: string | undefined;
  #dataHandler: ((chunk: Uint8Array) => void) | undefined;
  #drainHandler: (() => void) | undefined;
  #closeHandler: ((reason: string) => void) | undefined;

  constructor(socket: TLSSocket, peer: PeerIdentity, limits: TlsLimits) {
    this.#socket = socket;
    this.peer = peer;
    this.#limits = limits;
    socket.setNoDelay(true);
    socket.on('error', (error) => this.#closed(error.message));
    socket.on('close', () => this.#closed('closed by the peer'));
    socket.on('end', () => this.#closed('closed by the peer'));
  }

  get queuedBytes(): number {
    return this.#socket.writableLength;
  }

  send(pieces: readonly Uint8Array[]): void {
    if (this.#reason !== undefined) return;
    this.#socket.cork();
    for (const piece of pieces) if (piece.length > 0) this.#socket.write(piece, this.#onWritten);
    this.#socket.uncork();
    if (this.queuedBytes > this.#limits.lowWaterBytes) this.#aboveLowWater = true;
  }

  onData(handler: (chunk: Uint8Array) => void): void {
    this.#dataHandler = handler;
    this.#socket.on('data', (chunk: Uint8Array) => {
      if (this.#reason === undefined) this.#dataHandler?.(chunk);
      releaseBytes(chunk);
    });
    if (this.#paused) this.#socket.pause();
  }

  onDrain(handler: () => void): void {
    this.#drainHandler = handler;
  }

  onClose(handler: (reason: string) => void): void {
    this.#closeHandler = handler;
    if (this.#reason !== undefined) this.#announceClose();
  }

  pause(): void {
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    this.#paused = false;
    if (this.#dataHandler !== undefined) this.#socket.resume();
  }

  close(reason: string): void {
    if (this.#reason !== undefined) return;
    this.#closed(reason);
  }

  readonly #onWritten = (): void => {
    if (!this.#aboveLowWater || this.queuedBytes > this.#limits.lowWaterBytes) return;
    this.#aboveLowWater = false;
    if (this.#reason === undefined) this.#drainHandler?.();
  };

  /** Whatever happens first names the reason. What is queued still goes out; what comes in is thrown away. */
  #closed(reason: string): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#socket.end();
    this.#socket.resume();
    const cut = setTimeout(() => this.#socket.destroy(), this.#limits.closeGraceMs);
    this.#socket.once('close', () => clearTimeout(cut));
    if (this.#closeHandler !== undefined) this.#announceClose();
  }

  /** In a turn of its own: a caller of `close` is never called back from inside. */
  #announceClose(): void {
    setImmediate(() => this.#closeHandler?.(this.#reason!));
  }
}
