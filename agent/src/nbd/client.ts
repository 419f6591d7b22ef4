/** An NBD client: many requests at a time on one connection, each with a deadline. Upstream of in-path captures, source of syncs. */
import type { Socket } from 'node:net';
import type { Clock, Timer } from '../core/clock.js';
import { NbdError, type Extent } from './backend.js';
import type { ExportInfo } from './client-handshake.js';
import { openSocket, type NbdClientTls, type Opened } from './client-socket.js';
import { encodeRequest } from './codec.js';
import * as p from './protocol.js';
import { ReplyReader, type Expected } from './reply-reader.js';
import { parseNbdUri, type NbdAddress } from './uri.js';

export interface NbdClientOptions {
  readonly clock: Clock;
  readonly tls?: NbdClientTls;
  /** What `extents` asks about. Default base:allocation; of qemu:dirty-bitmap:NAME `hole` says dirty. */
  readonly metaContext?: string;
  /** From connect to transmission. Default 10 s. */
  readonly handshakeMs?: number;
  /** A request without a reply for this long ends the connection. Default 30 s. */
  readonly requestMs?: number;
  /** Requests sent and not answered; further ones wait. Default 128. */
  readonly inFlightMax?: number;
}

interface Pending extends Expected {
  readonly sinceMs: number;
  readonly resolve: () => void;
  readonly reject: (error: NbdError) => void;
}

interface Call {
  readonly command: number;
  readonly flags: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly target?: Uint8Array;
  readonly payload?: Uint8Array;
}

/**
 * Ranges must lie in the export and be multiples of its minimum block; a call of any length is cut into requests that
 * the server takes. Memory given to `read` and `write` must stay as it is until the promise settles. All failures are
 * NbdError; after a lost connection every call rejects with ESHUTDOWN, and the owner opens a new client.
 */
export class NbdClient {
  readonly info: ExportInfo;
  /** Resolves when the connection is over, with why. */
  readonly closed: Promise<string>;
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #requestMs: number;
  readonly #inFlightMax: number;
  readonly #pending = new Map<number, Pending>();
  readonly #waiting: (() => void)[] = [];
  #cookie = 0;
  #reason: string | undefined;
  #timer: Timer | undefined;

  private constructor(opened: Opened, options: NbdClientOptions) {
    this.info = opened.info;
    this.#socket = opened.socket;
    this.#clock = options.clock;
    this.#requestMs = options.requestMs ?? 30_000;
    this.#inFlightMax = options.inFlightMax ?? 128;
    this.closed = new Promise((resolve) => {
      opened.socket.on('close', () => {
        this.#lose('the NBD server closed the connection');
        resolve(this.#reason ?? '');
      });
    });
    const reader = new ReplyReader(
      (cookie) => this.#pending.get(cookie),
      (cookie) => this.#finish(cookie),
    );
    opened.attach({
      directTarget: () => (this.#reason === undefined ? reader.directTarget() : undefined),
      receivedDirect: (lengthBytes) => reader.receivedDirect(lengthBytes),
      receive: (chunk) => {
        if (this.#reason !== undefined) return;
        try {
          reader.receive(chunk);
        } catch (error) {
          this.#lose((error as Error).message);
        }
      },
    });
  }

  /** Throws TidemarkError: `config-invalid`, `peer-unreachable`, `peer-refused`, `disk-unknown`, `protocol-error`, `timed-out`. */
  static async open(address: NbdAddress | string, options: NbdClientOptions): Promise<NbdClient> {
    const parsed = typeof address === 'string' ? parseNbdUri(address) : address;
    const opened = await openSocket(parsed, options.clock, options.handshakeMs ?? 10_000, options);
    return new NbdClient(opened, options);
  }

  get sizeBytes(): number {
    return this.info.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#has(p.exportFlag.readOnly);
  }

  /** Fills `target`. */
  async read(target: Uint8Array, offsetBytes: number): Promise<void> {
    const command = p.command.read;
    await this.#cut(offsetBytes, target.length, this.info.payloadBytesMax, (at, lengthBytes) => {
      const part = target.subarray(at - offsetBytes, at - offsetBytes + lengthBytes);
      return this.#request({ command, flags: 0, offsetBytes: at, lengthBytes, target: part });
    });
  }

  /** With `fua` the bytes are durable when it resolves. */
  async write(bytes: Uint8Array, offsetBytes: number, fua = false): Promise<void> {
    const [flags, flushAfter] = this.#fua(fua);
    const command = p.command.write;
    await this.#cut(offsetBytes, bytes.length, this.info.payloadBytesMax, (at, lengthBytes) => {
      const payload = bytes.subarray(at - offsetBytes, at - offsetBytes + lengthBytes);
      return this.#request({ command, flags, offsetBytes: at, lengthBytes, payload });
    });
    if (flushAfter) await this.flush();
  }

  /** Reads as zeros afterwards; `mayTrim` false keeps it allocated. */
  async zero(offsetBytes: number, lengthBytes: number, mayTrim = true, fua = false): Promise<void> {
    if (!this.#has(p.exportFlag.sendWriteZeroes)) {
      const zeros = Buffer.alloc(Math.min(lengthBytes, 1 << 20));
      await this.#cut(offsetBytes, lengthBytes, zeros.length, (at, n) => this.write(zeros.subarray(0, n), at, fua));
      return;
    }
    const [fuaFlag, flushAfter] = this.#fua(fua);
    const flags = fuaFlag | (mayTrim ? 0 : p.commandFlag.noHole);
    await this.#cutRange(p.command.writeZeroes, flags, offsetBytes, lengthBytes);
    if (flushAfter) await this.flush();
  }

  /** A hint: what the range reads as afterwards is the server's choice. */
  async trim(offsetBytes: number, lengthBytes: number, fua = false): Promise<void> {
    const [flags, flushAfter] = this.#fua(fua);
    if (this.#has(p.exportFlag.sendTrim)) await this.#cutRange(p.command.trim, flags, offsetBytes, lengthBytes);
    if (flushAfter) await this.flush();
  }

  /** Every write that had resolved before the call is durable. */
  async flush(): Promise<void> {
    if (!this.#has(p.exportFlag.sendFlush)) return;
    await this.#request({ command: p.command.flush, flags: 0, offsetBytes: 0, lengthBytes: 0 });
  }

  /** Runs from the start of the range, maybe not to its end; one allocated run when the server cannot say. */
  async extents(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    const length = Math.min(lengthBytes, rangeBytesMax);
    if (this.info.contextId === undefined) return [{ lengthBytes: length, hole: false, zero: false }];
    const command = p.command.blockStatus;
    const { extents = [] } = await this.#request({ command, flags: 0, offsetBytes, lengthBytes: length });
    if (extents.length === 0) throw new NbdError('EIO', 'The NBD server sent no block status.');
    return clip(extents, length);
  }

  /** Sends DISC and closes; what is in flight rejects (and is not waited for). Idempotent. */
  async close(): Promise<void> {
    if (this.#pending.size > 0) this.#lose('the client was closed');
    if (this.#reason === undefined) {
      this.#fail('the client was closed');
      const cut = this.#clock.after(1_000, () => this.#socket.destroy());
      const request = { flags: 0, cookieHigh: 0, cookieLow: 0, offsetBytes: 0, lengthBytes: 0 };
      this.#socket.end(encodeRequest({ ...request, command: p.command.disconnect }));
      await this.closed;
      cut.cancel();
    }
    await this.closed;
  }

  #has(flag: number): boolean {
    return (this.info.flags & flag) !== 0;
  }

  /** The flag to send, and whether a flush has to do its work. */
  #fua(fua: boolean): [number, boolean] {
    if (!fua) return [0, false];
    return this.#has(p.exportFlag.sendFua) ? [p.commandFlag.fua, false] : [0, true];
  }

  #cutRange(command: number, flags: number, offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#cut(offsetBytes, lengthBytes, rangeBytesMax, (at, length) =>
      this.#request({ command, flags, offsetBytes: at, lengthBytes: length }),
    );
  }

  async #cut(
    offsetBytes: number,
    lengthBytes: number,
    stepBytes: number,
    each: (offsetBytes: number, lengthBytes: number) => Promise<unknown>,
  ): Promise<void> {
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; at += stepBytes) await each(at, Math.min(stepBytes, end - at));
  }

  async #request(call: Call): Promise<Pending> {
    while (this.#pending.size >= this.#inFlightMax && this.#reason === undefined) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    if (this.#reason !== undefined) throw new NbdError('ESHUTDOWN', this.#reason);
    return new Promise((resolve, reject) => {
      const cookie = this.#cookie++;
      const pending: Pending = {
        command: call.command,
        offsetBytes: call.offsetBytes,
        lengthBytes: call.lengthBytes,
        target: call.target,
        receivedBytes: 0,
        extents: undefined,
        error: undefined,
        sinceMs: this.#clock.monotonicMs(),
        resolve: () => resolve(pending),
        reject,
      };
      this.#pending.set(cookie, pending);
      this.#timer ??= this.#clock.after(this.#requestMs, () => this.#checkDeadlines());
      const { command, flags, offsetBytes, lengthBytes } = call;
      const [cookieHigh, cookieLow] = [Math.floor(cookie / 0x1_0000_0000), cookie % 0x1_0000_0000];
      this.#socket.cork();
      this.#socket.write(encodeRequest({ command, flags, cookieHigh, cookieLow, offsetBytes, lengthBytes }));
      if (call.payload !== undefined) this.#socket.write(call.payload);
      this.#socket.uncork();
    });
  }

  #finish(cookie: number): void {
    const pending = this.#pending.get(cookie);
    if (pending === undefined) return;
    this.#pending.delete(cookie);
    if (pending.target !== undefined && pending.error === undefined && pending.receivedBytes !== pending.lengthBytes) {
      pending.error = new NbdError('EIO', 'The NBD server did not send all bytes of a read.');
    }
    if (pending.error === undefined) pending.resolve();
    else pending.reject(pending.error);
    this.#waiting.shift()?.();
  }

  /** The oldest request decides: requests are in the order they were sent. */
  #checkDeadlines(): void {
    this.#timer = undefined;
    const oldest = this.#pending.values().next().value;
    if (oldest === undefined) return;
    const leftMs = oldest.sinceMs + this.#requestMs - this.#clock.monotonicMs();
    if (leftMs <= 0) this.#lose(`no reply of the NBD server within ${String(this.#requestMs)} ms`);
    else this.#timer = this.#clock.after(leftMs, () => this.#checkDeadlines());
  }

  /** Late bytes could land in memory that was given back: the connection ends with the first broken promise. */
  #lose(reason: string): void {
    this.#fail(reason);
    this.#socket.destroy();
  }

  #fail(reason: string): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#timer?.cancel();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of pending) reject(new NbdError('ESHUTDOWN', reason));
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

/** Longest range of one request without payload; a multiple of every block size. */
const rangeBytesMax = 1024 * 1024 * 1024;

function clip(extents: readonly Extent[], lengthBytes: number): Extent[] {
  const clipped: Extent[] = [];
  let left = lengthBytes;
  for (const extent of extents) {
    if (left === 0) break;
    clipped.push({ ...extent, lengthBytes: Math.min(extent.lengthBytes, left) });
    left -= Math.min(extent.lengthBytes, left);
  }
  return clipped;
}
