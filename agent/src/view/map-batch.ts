/** Codec of the scratch map log: header and batches. Layout and rules in SCRATCH.md. */
import { crc32 } from 'node:zlib';
import { TidemarkError } from '../core/errors.js';
import { blocksPerPage } from './block-map.js';

export const mapHeaderBytes = 512;
export const mapVersion = 1;
export const batchHeaderBytes = 32;
export const runBytes = 24;
export const pageRecordBytes = 16 + blocksPerPage * 4;
/** Payload of one batch; a torn length never makes a reader allocate more. */
export const batchPayloadBytesMax = 4 * 1024 * 1024;
const headerMagic = 0x48535254; // TRSH
const batchMagic = 0x42535254; // TRSB

export const BatchType = { runs: 1, pages: 2 } as const;
export type BatchType = (typeof BatchType)[keyof typeof BatchType];

/** `count` blocks from `firstBlock` lie in slots from `firstSlot` on, or read as zeros (`firstSlot` undefined). */
export interface MapRun {
  readonly disk: number;
  readonly firstBlock: number;
  readonly count: number;
  readonly firstSlot: number | undefined;
}

export interface MapHeader {
  readonly salt: Uint8Array;
  readonly keyCheck: Uint8Array | undefined;
  /** Batches that were durable before the file got its name: a bad one among them is damage. */
  readonly snapshotBatches: number;
}

export function encodeMapHeader(header: MapHeader): Buffer {
  const bytes = Buffer.alloc(mapHeaderBytes);
  bytes.writeUInt32LE(headerMagic, 0);
  bytes.writeUInt16LE(mapVersion, 4);
  bytes.writeUInt16LE(header.keyCheck === undefined ? 0 : 1, 6);
  bytes.set(header.salt, 8);
  if (header.keyCheck !== undefined) bytes.set(header.keyCheck, 24);
  bytes.writeUInt32LE(header.snapshotBatches, 32);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, mapHeaderBytes - 4)), mapHeaderBytes - 4);
  return bytes;
}

/** Throws `scratch-corrupt` or `format-version`. */
export function decodeMapHeader(bytes: Buffer, path: string): MapHeader {
  const bad = (what: string): TidemarkError =>
    new TidemarkError('scratch-corrupt', `Scratch map header: ${what}.`, { path });
  if (bytes.length < mapHeaderBytes || bytes.readUInt32LE(0) !== headerMagic) throw bad('magic');
  if (crc32(bytes.subarray(0, mapHeaderBytes - 4)) !== bytes.readUInt32LE(mapHeaderBytes - 4)) throw bad('checksum');
  const version = bytes.readUInt16LE(4);
  if (version > mapVersion)
    throw new TidemarkError('format-version', `Scratch version ${version} is newer than ${mapVersion}.`, { path });
  const flags = bytes.readUInt16LE(6);
  if (version !== mapVersion || flags > 1) throw bad('version or flags');
  return {
    salt: Uint8Array.from(bytes.subarray(8, 24)),
    keyCheck: flags === 1 ? Uint8Array.from(bytes.subarray(24, 32)) : undefined,
    snapshotBatches: bytes.readUInt32LE(32),
  };
}

export function encodeRuns(runs: readonly MapRun[]): Buffer {
  const bytes = Buffer.alloc(runs.length * runBytes);
  runs.forEach((run, index) => {
    const at = index * runBytes;
    bytes[at] = run.firstSlot === undefined ? 2 : 1;
    bytes.writeUInt16LE(run.disk, at + 2);
    bytes.writeUInt32LE(run.count, at + 4);
    bytes.writeBigUInt64LE(BigInt(run.firstBlock), at + 8);
    bytes.writeUInt32LE(run.firstSlot ?? 0, at + 16);
  });
  return bytes;
}

export function decodeRuns(payload: Buffer): MapRun[] {
  const runs: MapRun[] = [];
  for (let at = 0; at < payload.length; at += runBytes) {
    runs.push({
      disk: payload.readUInt16LE(at + 2),
      count: payload.readUInt32LE(at + 4),
      firstBlock: Number(payload.readBigUInt64LE(at + 8)),
      firstSlot: payload[at] === 1 ? payload.readUInt32LE(at + 16) : undefined,
    });
  }
  return runs;
}

export function encodePage(disk: number, index: number, entries: Uint32Array): Buffer {
  const bytes = Buffer.alloc(pageRecordBytes);
  bytes.writeUInt16LE(disk, 0);
  bytes.writeBigUInt64LE(BigInt(index), 8);
  entries.forEach((entry, at) => bytes.writeUInt32LE(entry, 16 + at * 4));
  return bytes;
}

export function* decodePages(payload: Buffer): Generator<{ disk: number; index: number; entries: Uint32Array }> {
  for (let at = 0; at < payload.length; at += pageRecordBytes) {
    const entries = new Uint32Array(blocksPerPage);
    for (let i = 0; i < blocksPerPage; i++) entries[i] = payload.readUInt32LE(at + 16 + i * 4);
    yield { disk: payload.readUInt16LE(at), index: Number(payload.readBigUInt64LE(at + 8)), entries };
  }
}

/** `identity`: first 8 bytes of the file's salt. */
export function encodeBatch(type: BatchType, sequence: number, identity: Uint8Array, payload: Buffer): Buffer {
  const header = Buffer.alloc(batchHeaderBytes);
  header.writeUInt32LE(batchMagic, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt32LE(sequence, 8);
  header.writeUInt32LE(payload.length, 12);
  header.set(identity.subarray(0, 8), 16);
  header.writeUInt32LE(crc32(payload, crc32(header.subarray(0, 28))), 28);
  return Buffer.concat([header, payload]);
}

/** The sizes a batch header claims, or undefined when it is none of this file. */
export function peekBatch(
  header: Buffer,
  identity: Uint8Array,
): { type: BatchType; sequence: number; payloadBytes: number } | undefined {
  if (header.length < batchHeaderBytes || header.readUInt32LE(0) !== batchMagic) return undefined;
  if (Buffer.compare(header.subarray(16, 24), identity.subarray(0, 8)) !== 0) return undefined;
  const type = header.readUInt16LE(4);
  const payloadBytes = header.readUInt32LE(12);
  if ((type !== BatchType.runs && type !== BatchType.pages) || payloadBytes > batchPayloadBytesMax) return undefined;
  if (payloadBytes % (type === BatchType.runs ? runBytes : pageRecordBytes) !== 0) return undefined;
  return { type, sequence: header.readUInt32LE(8), payloadBytes };
}

export function isBatchValid(header: Buffer, payload: Buffer): boolean {
  return crc32(payload, crc32(header.subarray(0, 28))) === header.readUInt32LE(28);
}
