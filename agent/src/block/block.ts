/**
 * The block: the unit that travels the stream, lies in the spool and is kept in the journal, byte for byte the same.
 *
 * Layout (little-endian; header 80 bytes, then recordCount × 24 bytes of record table, then the stored body):
 *
 * | offset | bytes | field |
 * |---|---|---|
 * | 0  | 4 | magic `TMBK` |
 * | 4  | 1 | version, 1 |
 * | 5  | 1 | flags: 1 folded, 2 compressed (zstd), 4 encrypted (AES-256-GCM), 8 last part of a folded range |
 * | 6  | 2 | stream: index of the source agent within the group |
 * | 8  | 4 | epoch number |
 * | 12 | 4 | incarnation |
 * | 16 | 8 | branch id of the epoch |
 * | 24 | 8 | first sequence |
 * | 32 | 8 | last sequence |
 * | 40 | 4 | record count |
 * | 44 | 4 | stored body bytes |
 * | 48 | 4 | raw body bytes (after decryption and decompression) |
 * | 52 | 4 | part: index of this block within its folded range, 0 otherwise |
 * | 56 | 4 | crc32 of the stored body |
 * | 60 | 4 | reserved, 0 |
 * | 64 | 8 | source time of the last record, microseconds since the Unix epoch, monotonic within a group |
 * | 72 | 4 | reserved, 0 |
 * | 76 | 4 | crc32 of bytes 0..75 followed by the record table |
 *
 * Record, 24 bytes: 0 kind (1), 1 reserved 0 (1), 2 disk (2), 4 length (4), 8 offset (8), 16 position of the payload in
 * the raw body (4), 20 sequence − first sequence (4).
 *
 * Valid if and only if: magic, version and both checksums agree; reserved fields and unknown flags are 0; the sizes are
 * within the bounds below; records are in sequence order (plain blocks: record i has sequence first + i, and
 * last = first + count − 1); payloads lie inside the raw body. A block without records is valid only when folded:
 * it says that nothing of [first…last] is left (or that base data of that range went to the replica directly).
 *
 * Ordering: within (stream, incarnation) the next plain block, or part 0 of the next folded range, starts at the last
 * sequence + 1. All parts of a folded range carry the same first and last; the range holds whole (parts 0…n with the
 * flag "last part" on n) or not at all. Sequences start at 1 in every incarnation.
 */
import { crc32 } from 'node:zlib';
import { invariant } from '../core/invariant.js';
import { TidemarkError } from '../core/errors.js';
import { recordKinds, type BlockRecord, type RecordKind } from './record.js';

export const blockHeaderBytes = 80;
export const recordBytes = 24;
export const blockVersion = 1;
/** Largest payload of one record; a longer guest write becomes several records. */
export const recordPayloadBytesMax = 1024 * 1024;
/** Records of one block. */
export const recordCountMax = 16_384;
/** Raw and stored body of one block. */
export const bodyBytesMax = 4 * 1024 * 1024;
/** Stored body with the tag that encryption at rest adds. */
const storedBytesMax = bodyBytesMax + 16;
export const blockBytesMax = blockHeaderBytes + recordCountMax * recordBytes + storedBytesMax;

const magic = 0x4b424d54;
const flagFolded = 1;
const flagCompressed = 2;
const flagEncrypted = 4;
const flagLastPart = 8;

export interface BlockHeader {
  readonly stream: number;
  readonly epoch: number;
  /** 8 bytes, lower-case hexadecimal. */
  readonly branch: string;
  readonly incarnation: number;
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly folded: boolean;
  readonly part: number;
  readonly lastPart: boolean;
  readonly compressed: boolean;
  readonly encrypted: boolean;
  readonly recordCount: number;
  readonly bodyStoredBytes: number;
  readonly bodyRawBytes: number;
  readonly sourceTimeUs: number;
}

/** A decoded block; `table` and `body` are views onto the bytes that were decoded. */
export interface Block {
  readonly header: BlockHeader;
  readonly table: Uint8Array;
  /** The stored body: still compressed and encrypted. */
  readonly body: Uint8Array;
  /** Header, table and body exactly as encoded. */
  readonly bytes: Uint8Array;
}

export interface BlockInput {
  readonly stream: number;
  readonly epoch: number;
  readonly branch: string;
  readonly incarnation: number;
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly folded: boolean;
  readonly part: number;
  readonly lastPart: boolean;
  readonly compressed: boolean;
  readonly encrypted: boolean;
  readonly bodyRawBytes: number;
  readonly sourceTimeUs: number;
}

function safe(value: bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw new TidemarkError('protocol-error', 'A number exceeds 2^53.');
  return number;
}

/** Encodes records as a table. `sequence` of each record must lie in first…last of the block. */
export function encodeTable(records: readonly BlockRecord[], firstSequence: number): Uint8Array {
  const table = new Uint8Array(records.length * recordBytes);
  const view = new DataView(table.buffer);
  let at = 0;
  for (const record of records) {
    view.setUint8(at, record.kind);
    view.setUint16(at + 2, record.disk, true);
    view.setUint32(at + 4, record.lengthBytes, true);
    view.setBigUint64(at + 8, BigInt(record.offsetBytes), true);
    view.setUint32(at + 16, record.bodyOffset, true);
    view.setUint32(at + 20, record.sequence - firstSequence, true);
    at += recordBytes;
  }
  return table;
}

/** Encodes the header (with both checksums) for a table and the pieces of a stored body. */
export function encodeHeader(input: BlockInput, table: Uint8Array, body: readonly Uint8Array[]): Uint8Array {
  const header = new Uint8Array(blockHeaderBytes);
  const view = new DataView(header.buffer);
  let bodyCrc = 0;
  let bodyStoredBytes = 0;
  for (const piece of body) {
    bodyCrc = crc32(piece, bodyCrc);
    bodyStoredBytes += piece.length;
  }
  const recordCount = table.length / recordBytes;
  invariant(recordCount <= recordCountMax && bodyStoredBytes <= storedBytesMax, 'block over its bounds');
  invariant(input.bodyRawBytes <= bodyBytesMax, 'block body over its bound');
  invariant(input.lastSequence >= input.firstSequence && input.firstSequence >= 1, 'block sequences');
  view.setUint32(0, magic, true);
  view.setUint8(4, blockVersion);
  view.setUint8(
    5,
    (input.folded ? flagFolded : 0) |
      (input.compressed ? flagCompressed : 0) |
      (input.encrypted ? flagEncrypted : 0) |
      (input.lastPart ? flagLastPart : 0),
  );
  view.setUint16(6, input.stream, true);
  view.setUint32(8, input.epoch, true);
  view.setUint32(12, input.incarnation, true);
  view.setBigUint64(16, BigInt('0x' + input.branch), true);
  view.setBigUint64(24, BigInt(input.firstSequence), true);
  view.setBigUint64(32, BigInt(input.lastSequence), true);
  view.setUint32(40, recordCount, true);
  view.setUint32(44, bodyStoredBytes, true);
  view.setUint32(48, input.bodyRawBytes, true);
  view.setUint32(52, input.part, true);
  view.setUint32(56, bodyCrc, true);
  view.setBigUint64(64, BigInt(Math.round(input.sourceTimeUs)), true);
  view.setUint32(76, crc32(table, crc32(header.subarray(0, 76))), true);
  return header;
}

/** Encodes a whole block into one buffer. */
export function encodeBlock(
  input: BlockInput,
  records: readonly BlockRecord[],
  body: readonly Uint8Array[],
): Uint8Array {
  const table = encodeTable(records, input.firstSequence);
  const header = encodeHeader(input, table, body);
  return Buffer.concat([header, table, ...body]);
}

function refuse(message: string): never {
  throw new TidemarkError('protocol-error', `Bad block: ${message}.`);
}

/** Length of the whole block from its header alone, or a refusal. Needs {@link blockHeaderBytes} bytes; checks no checksum. */
export function peekBlockBytes(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < blockHeaderBytes || view.getUint32(0, true) !== magic) refuse('magic');
  const recordCount = view.getUint32(40, true);
  const bodyStoredBytes = view.getUint32(44, true);
  if (recordCount > recordCountMax || bodyStoredBytes > storedBytesMax) refuse('size over its bound');
  return blockHeaderBytes + recordCount * recordBytes + bodyStoredBytes;
}

/** Length of header and table from the header alone; what an index reader needs. */
export function peekTableEnd(bytes: Uint8Array): number {
  peekBlockBytes(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return blockHeaderBytes + view.getUint32(40, true) * recordBytes;
}

/** Decodes and checks header and table (bytes may stop at the table's end: then `checkBody` must be false). */
export function decodeHeader(bytes: Uint8Array): { header: BlockHeader; table: Uint8Array; bodyCrc: number } {
  const tableEnd = peekTableEnd(bytes);
  if (bytes.length < tableEnd) refuse('cut short');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint8(4) > blockVersion) {
    throw new TidemarkError('format-version', `Block version ${view.getUint8(4)} is newer than ${blockVersion}.`);
  }
  if (view.getUint8(4) !== blockVersion) refuse('version');
  const table = bytes.subarray(blockHeaderBytes, tableEnd);
  if (crc32(table, crc32(bytes.subarray(0, 76))) !== view.getUint32(76, true)) refuse('header checksum');
  const flags = view.getUint8(5);
  if (flags & ~(flagFolded | flagCompressed | flagEncrypted | flagLastPart)) refuse('unknown flag');
  if (view.getUint32(60, true) !== 0 || view.getUint32(72, true) !== 0) refuse('reserved field');
  const header: BlockHeader = {
    stream: view.getUint16(6, true),
    epoch: view.getUint32(8, true),
    incarnation: view.getUint32(12, true),
    branch: view.getBigUint64(16, true).toString(16).padStart(16, '0'),
    firstSequence: safe(view.getBigUint64(24, true)),
    lastSequence: safe(view.getBigUint64(32, true)),
    folded: (flags & flagFolded) !== 0,
    lastPart: (flags & flagLastPart) !== 0,
    part: view.getUint32(52, true),
    compressed: (flags & flagCompressed) !== 0,
    encrypted: (flags & flagEncrypted) !== 0,
    recordCount: view.getUint32(40, true),
    bodyStoredBytes: view.getUint32(44, true),
    bodyRawBytes: view.getUint32(48, true),
    sourceTimeUs: safe(view.getBigUint64(64, true)),
  };
  if (header.bodyRawBytes > bodyBytesMax) refuse('raw body over its bound');
  if (!header.compressed && !header.encrypted && header.bodyRawBytes !== header.bodyStoredBytes) refuse('body sizes');
  if (header.firstSequence < 1 || header.lastSequence < header.firstSequence) refuse('sequences');
  if (!header.folded && (header.part !== 0 || header.lastPart)) refuse('part of a plain block');
  if (!header.folded && header.lastSequence !== header.firstSequence + header.recordCount - 1) refuse('record count');
  return { header, table, bodyCrc: view.getUint32(56, true) };
}

/** Decodes one whole block and checks everything in "valid if and only if", the body's checksum included. */
export function decodeBlock(bytes: Uint8Array): Block {
  const { header, table, bodyCrc } = decodeHeader(bytes);
  const bodyStart = blockHeaderBytes + table.length;
  const body = bytes.subarray(bodyStart, bodyStart + header.bodyStoredBytes);
  if (body.length !== header.bodyStoredBytes || bytes.length !== bodyStart + body.length) refuse('cut short');
  if (crc32(body) !== bodyCrc) refuse('body checksum');
  checkTable(header, table);
  return { header, table, body, bytes };
}

function checkTable(header: BlockHeader, table: Uint8Array): void {
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  let previous = -1;
  for (let index = 0; index < header.recordCount; index++) {
    const at = index * recordBytes;
    const kind = view.getUint8(at);
    const rules = recordKinds[kind as RecordKind];
    if (rules === undefined || view.getUint8(at + 1) !== 0) refuse(`kind of record ${index}`);
    const delta = view.getUint32(at + 20, true);
    if (header.folded ? delta < previous : delta !== index) refuse(`sequence of record ${index}`);
    if (header.firstSequence + delta > header.lastSequence) refuse(`sequence of record ${index}`);
    previous = delta;
    safe(view.getBigUint64(at + 8, true));
    const lengthBytes = view.getUint32(at + 4, true);
    if (rules.payload) {
      if (lengthBytes > recordPayloadBytesMax) refuse(`length of record ${index}`);
      if (view.getUint32(at + 16, true) + lengthBytes > header.bodyRawBytes) refuse(`payload of record ${index}`);
    }
  }
}

/** The records of a decoded block. */
export function decodeTable(header: BlockHeader, table: Uint8Array): BlockRecord[] {
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  const records: BlockRecord[] = [];
  for (let at = 0; at < table.length; at += recordBytes) {
    records.push({
      kind: view.getUint8(at) as RecordKind,
      disk: view.getUint16(at + 2, true),
      lengthBytes: view.getUint32(at + 4, true),
      offsetBytes: Number(view.getBigUint64(at + 8, true)),
      bodyOffset: view.getUint32(at + 16, true),
      sequence: header.firstSequence + view.getUint32(at + 20, true),
    });
  }
  return records;
}
