/** Replies of one connection, gathered: what one batch of requests answers goes out in one write to the socket. */
import type { Socket } from 'node:net';
import { putSimpleReply } from './codec.js';
import { simpleReplyBytes } from './protocol.js';

/** Room for the simple replies of one batch; a fuller batch takes another. */
const scratchBytes = 4096;

export class ReplyQueue {
  readonly #socket: Socket;
  #scratch = Buffer.allocUnsafe(scratchBytes);
  /** Simple replies in scratch that are not in `#pieces` yet: [#from, #to). */
  #from = 0;
  #to = 0;
  #pieces: Buffer[] = [];
  #bytes = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Bytes that the client has not taken, as far as this process knows. */
  get queuedBytes(): number {
    return this.#bytes + this.#socket.writableLength;
  }

  simple(errno: number, cookieHigh: number, cookieLow: number): void {
    if (this.#to + simpleReplyBytes > scratchBytes) {
      this.#cut();
      this.#scratch = Buffer.allocUnsafe(scratchBytes);
      this.#from = 0;
      this.#to = 0;
    }
    putSimpleReply(this.#scratch, this.#to, errno, cookieHigh, cookieLow);
    this.#to += simpleReplyBytes;
    this.#bytes += simpleReplyBytes;
  }

  /** A reply in its own memory, which must not change afterwards. */
  whole(reply: Buffer): void {
    this.#cut();
    this.#pieces.push(reply);
    this.#bytes += reply.length;
  }

  flush(): void {
    if (this.#bytes === 0) return;
    this.#cut();
    const pieces = this.#pieces;
    const socket = this.#socket;
    this.#pieces = [];
    this.#bytes = 0;
    const first = pieces[0];
    if (pieces.length === 1 && first !== undefined) {
      socket.write(first);
    } else {
      socket.cork();
      for (const piece of pieces) socket.write(piece);
      socket.uncork();
    }
    if (socket.writableLength === 0) this.#to = 0;
    else if (this.#to > 0) {
      // The kernel did not take it all: the memory is the socket's now.
      this.#scratch = Buffer.allocUnsafe(scratchBytes);
      this.#to = 0;
    }
    this.#from = this.#to;
  }

  #cut(): void {
    if (this.#to === this.#from) return;
    this.#pieces.push(this.#scratch.subarray(this.#from, this.#to));
    this.#from = this.#to;
  }
}
