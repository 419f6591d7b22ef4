/**
 * The replies of an NBD server, taken apart in any cut: data goes straight to the reader's memory, the rest is handed to
 * the request it belongs to. A byte that the protocol forbids throws `protocol-error`, after which nothing can be read.
 */
import { TidemarkError } from '../core/errors.js';
import { NbdError, type Extent } from './backend.js';
import { readOffset, readReply, readStatus, type ChunkHeader } from './codec.js';
import { errnoName } from './errno.js';
import * as p from './protocol.js';

/** A request that waits for its reply. */
export interface Expected {
  readonly command: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Where the bytes of a READ go. */
  readonly target: Uint8Array | undefined;
  receivedBytes: number;
  extents: Extent[] | undefined;
  error: NbdError | undefined;
}

/** Longest chunk that is no data: a block status of 64 Ki extents. */
const bodyBytesMax = 1024 * 1024;
const directBytesMin = 32 * 1024;

export class ReplyReader {
  readonly #find: (cookie: number) => Expected | undefined;
  readonly #done: (cookie: number) => void;
  #small: Buffer = Buffer.allocUnsafe(p.chunkHeaderBytes);
  #have = 0;
  /** The chunk whose body (or the offset in front of its data) is being gathered in `#small`. */
  #chunk: ChunkHeader | undefined;
  /** Where data goes, and what remains of it. */
  #data: Buffer | undefined;
  #dataDone = false;
  #cookie = 0;

  constructor(find: (cookie: number) => Expected | undefined, done: (cookie: number) => void) {
    this.#find = find;
    this.#done = done;
  }

  receive(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#data !== undefined) {
        const taken = Math.min(this.#data.length, chunk.length - at);
        chunk.copy(this.#data, 0, at, at + taken);
        at += taken;
        this.receivedDirect(taken);
      } else {
        at += this.#gather(chunk, at);
      }
    }
  }

  /** Where the socket should read next, when data is expected. */
  directTarget(): Buffer | undefined {
    return this.#data !== undefined && this.#data.length >= directBytesMin ? this.#data : undefined;
  }

  receivedDirect(lengthBytes: number): void {
    const data = this.#data?.subarray(lengthBytes);
    this.#data = data === undefined || data.length === 0 ? undefined : data;
    if (this.#data === undefined && this.#dataDone) this.#done(this.#cookie);
  }

  #gather(chunk: Buffer, at: number): number {
    const wanted = this.#chunk === undefined ? this.#headerWanted() : this.#bodyWanted(this.#chunk);
    const taken = Math.min(wanted - this.#have, chunk.length - at);
    chunk.copy(this.#small, this.#have, at, at + taken);
    this.#have += taken;
    if (this.#have < wanted) return taken;
    if (this.#chunk === undefined) {
      this.#header();
    } else {
      const finished = this.#chunk;
      this.#have = 0;
      this.#chunk = undefined;
      this.#body(finished, this.#small.subarray(0, wanted));
    }
    return taken;
  }

  /** First what both kinds of reply have, then the rest of a chunk's header. */
  #headerWanted(): number {
    return this.#have < p.simpleReplyBytes ? p.simpleReplyBytes : p.chunkHeaderBytes;
  }

  #bodyWanted(chunk: ChunkHeader): number {
    return chunk.type === p.chunkType.offsetData ? 8 : chunk.lengthBytes;
  }

  #header(): void {
    const reply = readReply(this.#small.subarray(0, this.#have));
    if (reply === 'more') return;
    if (reply === undefined) throw malformed('a wrong magic in a reply');
    this.#have = 0;
    const { cookieHigh, cookieLow } = reply.kind === 'simple' ? reply.reply : reply.chunk;
    this.#cookie = cookieHigh * 0x1_0000_0000 + cookieLow;
    const expected = this.#expected();
    if (reply.kind === 'simple') {
      if (reply.reply.errno !== 0) expected.error = new NbdError(errnoName(reply.reply.errno), 'refused by the server');
      if (reply.reply.errno !== 0 || expected.command !== p.command.read) this.#done(this.#cookie);
      else this.#expectData(expected, 0, expected.lengthBytes, true);
      return;
    }
    const { chunk } = reply;
    if (chunk.lengthBytes === 0) {
      if (chunk.type !== p.chunkType.none) throw malformed('an empty chunk');
      if (chunk.done) this.#done(this.#cookie);
      return;
    }
    const bound = chunk.type === p.chunkType.offsetData ? p.payloadBytesMax + 8 : bodyBytesMax;
    if (chunk.lengthBytes > bound) throw malformed('a chunk that is too long');
    if (chunk.type === p.chunkType.offsetData && chunk.lengthBytes <= 8) throw malformed('a chunk without data');
    this.#chunk = chunk;
    if (this.#small.length < this.#bodyWanted(chunk)) this.#small = Buffer.allocUnsafe(chunk.lengthBytes);
  }

  #body(chunk: ChunkHeader, body: Buffer): void {
    const expected = this.#expected();
    if (chunk.type === p.chunkType.offsetData) {
      this.#expectData(expected, readOffset(body, 0) - expected.offsetBytes, chunk.lengthBytes - 8, chunk.done);
      return;
    }
    if (chunk.type === p.chunkType.offsetHole && body.length === 12) {
      const start = readOffset(body, 0) - expected.offsetBytes;
      this.#range(expected, start, body.readUInt32BE(8)).fill(0);
    } else if (chunk.type === p.chunkType.blockStatus && expected.command === p.command.blockStatus) {
      const status = readStatus(body);
      if (status === undefined) throw malformed('a malformed block status');
      expected.extents = status.extents;
    } else if (chunk.type >= 0x8000 && body.length >= 6) {
      const text = body.toString('utf8', 6, 6 + body.readUInt16BE(4));
      expected.error = new NbdError(errnoName(body.readUInt32BE(0)), text || 'refused by the server');
    } else {
      throw malformed('a chunk of an unknown kind');
    }
    if (chunk.done) this.#done(this.#cookie);
  }

  #expectData(expected: Expected, start: number, lengthBytes: number, done: boolean): void {
    this.#data = this.#range(expected, start, lengthBytes);
    this.#dataDone = done;
  }

  /** The part of a READ's target, which must lie in it; counted as received. */
  #range(expected: Expected, start: number, lengthBytes: number): Buffer {
    const { target } = expected;
    if (target === undefined || start < 0 || lengthBytes === 0 || start + lengthBytes > target.length) {
      throw malformed('data that was not asked for');
    }
    expected.receivedBytes += lengthBytes;
    return Buffer.from(target.buffer, target.byteOffset + start, lengthBytes);
  }

  #expected(): Expected {
    const expected = this.#find(this.#cookie);
    if (expected === undefined) throw malformed('a reply to no request of ours');
    return expected;
  }
}

function malformed(what: string): TidemarkError {
  return new TidemarkError('protocol-error', `The NBD server sent ${what}.`);
}
