/** Requests, replies and chunks to bytes and back; layouts: protocol.ts. The hot path uses the `put…` functions. */
import type { Extent } from './backend.js';
import {
  allocationContextId,
  allocationFlag,
  chunkDone,
  chunkHeaderBytes,
  chunkMagic,
  chunkType,
  requestBytes,
  requestMagic,
  simpleReplyBytes,
  simpleReplyMagic,
} from './protocol.js';

const high = 0x1_0000_0000;

/** A cookie travels as its two halves: no bigint on the hot path. */
export interface Request {
  readonly flags: number;
  readonly command: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** Infinity when it is no safe integer: always out of range. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export function readOffset(bytes: Buffer, at: number): number {
  const value = bytes.readUInt32BE(at) * high + bytes.readUInt32BE(at + 4);
  return value <= Number.MAX_SAFE_INTEGER ? value : Infinity;
}

export function putOffset(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32BE(Math.floor(value / high), at);
  bytes.writeUInt32BE(value % high, at + 4);
}

/** Reads the request at `at`, where `requestBytes` are there; undefined when the magic is wrong. */
export function readRequest(bytes: Buffer, at: number): Request | undefined {
  if (bytes.readUInt32BE(at) !== requestMagic) return undefined;
  return {
    flags: bytes.readUInt16BE(at + 4),
    command: bytes.readUInt16BE(at + 6),
    cookieHigh: bytes.readUInt32BE(at + 8),
    cookieLow: bytes.readUInt32BE(at + 12),
    offsetBytes: readOffset(bytes, at + 16),
    lengthBytes: bytes.readUInt32BE(at + 24),
  };
}

export function encodeRequest(request: Request): Buffer {
  const bytes = Buffer.allocUnsafe(requestBytes);
  bytes.writeUInt32BE(requestMagic, 0);
  bytes.writeUInt16BE(request.flags, 4);
  bytes.writeUInt16BE(request.command, 6);
  bytes.writeUInt32BE(request.cookieHigh, 8);
  bytes.writeUInt32BE(request.cookieLow, 12);
  putOffset(bytes, 16, request.offsetBytes);
  bytes.writeUInt32BE(request.lengthBytes, 24);
  return bytes;
}

export interface SimpleReply {
  readonly errno: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

export function putSimpleReply(bytes: Buffer, at: number, errno: number, cookieHigh: number, cookieLow: number): void {
  bytes.writeUInt32BE(simpleReplyMagic, at);
  bytes.writeUInt32BE(errno, at + 4);
  bytes.writeUInt32BE(cookieHigh, at + 8);
  bytes.writeUInt32BE(cookieLow, at + 12);
}

export function encodeSimpleReply(reply: SimpleReply): Buffer {
  const bytes = Buffer.allocUnsafe(simpleReplyBytes);
  putSimpleReply(bytes, 0, reply.errno, reply.cookieHigh, reply.cookieLow);
  return bytes;
}

export interface ChunkHeader {
  readonly done: boolean;
  readonly type: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly lengthBytes: number;
}

export function putChunkHeader(bytes: Buffer, at: number, chunk: ChunkHeader): void {
  bytes.writeUInt32BE(chunkMagic, at);
  bytes.writeUInt16BE(chunk.done ? chunkDone : 0, at + 4);
  bytes.writeUInt16BE(chunk.type, at + 6);
  bytes.writeUInt32BE(chunk.cookieHigh, at + 8);
  bytes.writeUInt32BE(chunk.cookieLow, at + 12);
  bytes.writeUInt32BE(chunk.lengthBytes, at + 16);
}

/** A simple reply or the header of a chunk at the start of `bytes`; `more`: not all there yet; undefined: neither. */
export function readReply(
  bytes: Buffer,
):
  | { readonly kind: 'simple'; readonly reply: SimpleReply }
  | { readonly kind: 'chunk'; readonly chunk: ChunkHeader }
  | 'more'
  | undefined {
  if (bytes.length < 4) return 'more';
  const magic = bytes.readUInt32BE(0);
  if (magic !== simpleReplyMagic && magic !== chunkMagic) return undefined;
  if (bytes.length < (magic === chunkMagic ? chunkHeaderBytes : simpleReplyBytes)) return 'more';
  const cookieHigh = bytes.readUInt32BE(8);
  const cookieLow = bytes.readUInt32BE(12);
  if (magic === simpleReplyMagic) {
    return { kind: 'simple', reply: { errno: bytes.readUInt32BE(4), cookieHigh, cookieLow } };
  }
  const done = (bytes.readUInt16BE(4) & chunkDone) !== 0;
  const type = bytes.readUInt16BE(6);
  return { kind: 'chunk', chunk: { done, type, cookieHigh, cookieLow, lengthBytes: bytes.readUInt32BE(16) } };
}

/** A whole last chunk of type ERROR; `text` is cut to what its length field can say. */
export function encodeErrorChunk(errno: number, text: string, cookieHigh: number, cookieLow: number): Buffer {
  const message = Buffer.from(text).subarray(0, 1024);
  const bytes = Buffer.allocUnsafe(chunkHeaderBytes + 6 + message.length);
  const lengthBytes = 6 + message.length;
  putChunkHeader(bytes, 0, { done: true, type: chunkType.error, cookieHigh, cookieLow, lengthBytes });
  bytes.writeUInt32BE(errno, chunkHeaderBytes);
  bytes.writeUInt16BE(message.length, chunkHeaderBytes + 4);
  message.copy(bytes, chunkHeaderBytes + 6);
  return bytes;
}

/** A whole last chunk of type BLOCK_STATUS for base:allocation. */
export function encodeStatusChunk(extents: readonly Extent[], cookieHigh: number, cookieLow: number): Buffer {
  const lengthBytes = 4 + 8 * extents.length;
  const bytes = Buffer.allocUnsafe(chunkHeaderBytes + lengthBytes);
  putChunkHeader(bytes, 0, { done: true, type: chunkType.blockStatus, cookieHigh, cookieLow, lengthBytes });
  bytes.writeUInt32BE(allocationContextId, chunkHeaderBytes);
  let at = chunkHeaderBytes + 4;
  for (const extent of extents) {
    bytes.writeUInt32BE(extent.lengthBytes, at);
    bytes.writeUInt32BE((extent.hole ? allocationFlag.hole : 0) | (extent.zero ? allocationFlag.zero : 0), at + 4);
    at += 8;
  }
  return bytes;
}

/** The content of a BLOCK_STATUS chunk; undefined when it is malformed. */
export function readStatus(body: Buffer): { contextId: number; extents: Extent[] } | undefined {
  if (body.length < 12 || (body.length - 4) % 8 !== 0) return undefined;
  const extents: Extent[] = [];
  for (let at = 4; at < body.length; at += 8) {
    const lengthBytes = body.readUInt32BE(at);
    const flags = body.readUInt32BE(at + 4);
    if (lengthBytes === 0) return undefined;
    extents.push({
      lengthBytes,
      hole: (flags & allocationFlag.hole) !== 0,
      zero: (flags & allocationFlag.zero) !== 0,
    });
  }
  return { contextId: body.readUInt32BE(0), extents };
}
