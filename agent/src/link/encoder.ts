/** Turns records into blocks of one incarnation; puts a newer epoch on blocks that were encoded before it. */
import { crc32 } from 'node:zlib';
import { blockHeaderBytes, encodeHeader, encodeTable } from '../block/block.js';
import type { BlockRecord } from '../block/record.js';
import type { Compressor } from './environment.js';
import type { CompressionPolicy } from './compression.js';
import type { EncodedBlock } from './encoded-block.js';
import type { RawRecord } from './queue-item.js';

/** What every block of an incarnation says. */
export interface StreamIdentity {
  readonly stream: number;
  readonly incarnation: number;
  readonly epoch: number;
  readonly branch: string;
}

/** The fields of one block beside its identity. */
export interface BlockPlace {
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly folded: boolean;
  readonly part: number;
  readonly lastPart: boolean;
  readonly sourceTimeUs: number;
}

export class BlockEncoder {
  private readonly compressor: Compressor;
  private readonly policy: CompressionPolicy;
  identity: StreamIdentity = { stream: 0, incarnation: 0, epoch: 0, branch: '0'.repeat(16) };
  /** Since the start. */
  rawBytes = 0;
  storedBytes = 0;

  constructor(compressor: Compressor, policy: CompressionPolicy) {
    this.compressor = compressor;
    this.policy = policy;
  }

  /** The bytes of the block lie in the payloads themselves when it could not be made smaller (`copied` is false). */
  async encode(
    records: readonly RawRecord[],
    bodyBytes: number,
    place: BlockPlace,
  ): Promise<{ block: EncodedBlock; copied: boolean }> {
    const placed: BlockRecord[] = [];
    const pieces: Uint8Array[] = [];
    let at = 0;
    for (const { kind, disk, offsetBytes, lengthBytes, bytes, sequence } of records) {
      placed.push({ kind, disk, offsetBytes, lengthBytes, bodyOffset: bytes === undefined ? 0 : at, sequence });
      if (bytes === undefined) continue;
      pieces.push(bytes);
      at += bytes.length;
    }
    const { identity } = this;
    const smaller = await this.compress(pieces, bodyBytes);
    const body = smaller === undefined ? pieces : [smaller];
    const table = encodeTable(placed, place.firstSequence);
    const compressed = smaller !== undefined;
    const header = encodeHeader(
      { ...identity, ...place, compressed, encrypted: false, bodyRawBytes: bodyBytes },
      table,
      body,
    );
    this.rawBytes += bodyBytes;
    this.storedBytes += smaller?.length ?? bodyBytes;
    return { block: [header, table, ...body], copied: compressed };
  }

  /** As `encode`; the block keeps nothing of the records' payloads. */
  async encodeCopy(records: readonly RawRecord[], bodyBytes: number, place: BlockPlace): Promise<EncodedBlock> {
    const { block, copied } = await this.encode(records, bodyBytes, place);
    const [header, table, ...body] = block as [Uint8Array, Uint8Array, ...Uint8Array[]];
    return copied ? block : [header, table, concat(body, bodyBytes)];
  }

  /** The block with the epoch that is in force now; its records and body stay as they are. */
  restamp(block: EncodedBlock): EncodedBlock {
    const [header, table, ...body] = block as [Uint8Array, Uint8Array, ...Uint8Array[]];
    const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
    const branch = BigInt('0x' + this.identity.branch);
    if (view.getUint32(8, true) === this.identity.epoch && view.getBigUint64(16, true) === branch) return block;
    const stamped = header.slice(0, blockHeaderBytes);
    const target = new DataView(stamped.buffer);
    target.setUint32(8, this.identity.epoch, true);
    target.setBigUint64(16, branch, true);
    target.setUint32(76, crc32(table, crc32(stamped.subarray(0, 76))), true);
    return [stamped, table, ...body];
  }

  private async compress(pieces: readonly Uint8Array[], bodyBytes: number): Promise<Uint8Array | undefined> {
    const level = this.policy.level(bodyBytes);
    if (level === 0) return undefined;
    const compressed = await this.compressor.compress(concat(pieces, bodyBytes), level);
    this.policy.observe(bodyBytes, compressed.length);
    return compressed.length < bodyBytes ? compressed : undefined;
  }
}

/** In memory of its own, not in Node's shared pool. */
function concat(pieces: readonly Uint8Array[], totalBytes: number): Uint8Array<ArrayBuffer> {
  const whole = Buffer.allocUnsafeSlow(totalBytes);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
