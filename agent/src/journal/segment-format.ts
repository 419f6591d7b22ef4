/** Codecs of the segment file: header, entry wrapper, trailer. The format is documented in SEGMENT.md. */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { blockBytesMax } from '../block/block.js';
import { TidemarkError } from '../core/errors.js';

export const segmentHeaderBytes = 64;
export const wrapperBytes = 32;
export const trailerBytes = 128;
export const segmentVersion = 1;
/** Positions of entries are 32 bits in the indexes. */
export const segmentBytesMax = 0xf000_0000;
const headerMagic = 0x47534d54;
export const wrapperMagic = 0x454a4d54;
const trailerMagic = 0x46534d54;
const flagElided = 1;
const flagWatermark = 2;

export interface SegmentHeader {
  readonly id: number;
  readonly encrypted: boolean;
  readonly salt: Buffer;
  /** Start value of the checksums of wrappers and trailer. */
  readonly seed: number;
}

export function groupDigest(uuid: string): Buffer {
  return createHash('sha256').update(uuid).digest().subarray(0, 16);
}

export function corruptSegment(path: string, what: string, cause?: unknown): TidemarkError {
  return new TidemarkError('journal-corrupt', `Journal segment: ${what}.`, { path, cause });
}

export function encodeSegmentHeader(uuid: string, id: number, salt: Uint8Array, encrypted: boolean): Buffer {
  const bytes = Buffer.alloc(segmentHeaderBytes);
  bytes.writeUInt32LE(headerMagic, 0);
  bytes.writeUInt32LE(segmentVersion, 4);
  groupDigest(uuid).copy(bytes, 8);
  bytes.writeUInt32LE(id, 24);
  bytes.writeUInt32LE(encrypted ? 1 : 0, 28);
  bytes.set(salt, 32);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 60)), 60);
  return bytes;
}

/** Throws `journal-corrupt` or `format-version`. */
export function decodeSegmentHeader(bytes: Buffer, uuid: string, id: number, path: string): SegmentHeader {
  if (bytes.length < segmentHeaderBytes || bytes.readUInt32LE(0) !== headerMagic)
    throw corruptSegment(path, 'no header');
  const seed = crc32(bytes.subarray(0, 60));
  if (seed !== bytes.readUInt32LE(60)) throw corruptSegment(path, 'the checksum of the header is wrong');
  refuseNewer(bytes.readUInt32LE(4), path);
  if (!bytes.subarray(8, 24).equals(groupDigest(uuid))) throw corruptSegment(path, 'it belongs to another group');
  if (bytes.readUInt32LE(24) !== id) throw corruptSegment(path, 'the header names another segment');
  const flags = bytes.readUInt32LE(28);
  if (flags > 1 || bytes.subarray(48, 60).some((byte) => byte !== 0))
    throw corruptSegment(path, 'unknown header field');
  return { id, encrypted: flags === 1, salt: Buffer.from(bytes.subarray(32, 48)), seed };
}

function refuseNewer(version: number, path: string): void {
  if (version > segmentVersion) {
    throw new TidemarkError('format-version', `Segment version ${version} is newer than ${segmentVersion}.`, { path });
  }
}

export interface Wrapper {
  readonly elided: boolean;
  readonly watermark: boolean;
  readonly totalBytes: number;
  readonly blockBytes: number;
  readonly durableBytes: number;
}

export function paddedBytes(blockBytes: number): number {
  return wrapperBytes + ((blockBytes + 7) & ~7);
}

export function encodeWrapper(seed: number, blockBytes: number, durableBytes: number, elided: boolean): Buffer {
  const bytes = Buffer.alloc(wrapperBytes);
  bytes.writeUInt32LE(wrapperMagic, 0);
  bytes.writeUInt32LE((elided ? flagElided : 0) | (blockBytes === 0 ? flagWatermark : 0), 4);
  bytes.writeUInt32LE(paddedBytes(blockBytes), 8);
  bytes.writeUInt32LE(blockBytes, 12);
  bytes.writeBigUInt64LE(BigInt(durableBytes), 16);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 28), seed), 28);
  return bytes;
}

/** Undefined when there is no valid wrapper at `at`. */
export function decodeWrapper(bytes: Buffer, at: number, seed: number): Wrapper | undefined {
  if (at + wrapperBytes > bytes.length || bytes.readUInt32LE(at) !== wrapperMagic) return undefined;
  if (crc32(bytes.subarray(at, at + 28), seed) !== bytes.readUInt32LE(at + 28)) return undefined;
  const flags = bytes.readUInt32LE(at + 4);
  const blockBytes = bytes.readUInt32LE(at + 12);
  const totalBytes = bytes.readUInt32LE(at + 8);
  const watermark = (flags & flagWatermark) !== 0;
  if (flags > 3 || watermark !== (blockBytes === 0) || blockBytes > blockBytesMax + 16) return undefined;
  if (totalBytes !== paddedBytes(blockBytes)) return undefined;
  const durableBytes = Number(bytes.readBigUInt64LE(at + 16));
  return { elided: (flags & flagElided) !== 0, watermark, totalBytes, blockBytes, durableBytes };
}

export interface Section {
  readonly position: number;
  readonly bytes: number;
  readonly crc: number;
}

export interface Trailer {
  readonly entriesEnd: number;
  readonly heads: Section;
  readonly marks: Section;
  readonly runPosition: number;
  readonly extentCount: number;
  readonly fences: Section;
  readonly recordCount: number;
}

export function encodeTrailer(seed: number, trailer: Trailer): Buffer {
  const bytes = Buffer.alloc(trailerBytes);
  bytes.writeUInt32LE(trailerMagic, 0);
  bytes.writeUInt32LE(segmentVersion, 4);
  bytes.writeBigUInt64LE(BigInt(trailer.entriesEnd), 8);
  writeSection(bytes, 16, trailer.heads);
  writeSection(bytes, 32, trailer.marks);
  writeSection(bytes, 48, { position: trailer.runPosition, bytes: trailer.extentCount, crc: 0 });
  writeSection(bytes, 64, trailer.fences);
  bytes.writeUInt32LE(trailer.recordCount, 80);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 124), seed), 124);
  return bytes;
}

/** Undefined when the trailer is not valid; throws `format-version` when a newer Tidemark wrote it. */
export function decodeTrailer(bytes: Buffer, seed: number, path: string): Trailer | undefined {
  if (bytes.length !== trailerBytes || bytes.readUInt32LE(0) !== trailerMagic) return undefined;
  if (crc32(bytes.subarray(0, 124), seed) !== bytes.readUInt32LE(124)) return undefined;
  refuseNewer(bytes.readUInt32LE(4), path);
  const run = readSection(bytes, 48);
  return {
    entriesEnd: Number(bytes.readBigUInt64LE(8)),
    heads: readSection(bytes, 16),
    marks: readSection(bytes, 32),
    runPosition: run.position,
    extentCount: run.bytes,
    fences: readSection(bytes, 64),
    recordCount: bytes.readUInt32LE(80),
  };
}

function writeSection(bytes: Buffer, at: number, section: Section): void {
  bytes.writeBigUInt64LE(BigInt(section.position), at);
  bytes.writeUInt32LE(section.bytes, at + 8);
  bytes.writeUInt32LE(section.crc, at + 12);
}

function readSection(bytes: Buffer, at: number): Section {
  return {
    position: Number(bytes.readBigUInt64LE(at)),
    bytes: bytes.readUInt32LE(at + 8),
    crc: bytes.readUInt32LE(at + 12),
  };
}
