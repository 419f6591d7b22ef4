/** What is known of an entry without its body, and how its body becomes plain again. */
import { zstdDecompressSync } from 'node:zlib';
import { blockHeaderBytes, decodeHeader, recordBytes, type BlockHeader } from '../block/block.js';
import { TidemarkError } from '../core/errors.js';
import { decryptBody } from './encryption.js';
import { isWithin, type Vector } from './position.js';
import { recordKinds, type RecordKind } from '../block/record.js';
import { RunBuilder } from './run-builder.js';
import type { MemoryRun } from './run.js';

export interface EntryHead {
  /** Where the entry starts in the segment's file. */
  readonly position: number;
  readonly totalBytes: number;
  readonly header: BlockHeader;
  readonly table: Uint8Array;
  /** Header and table as they lie in the file; a copy that keeps nothing else alive. */
  readonly bytes: Uint8Array;
}

/** `bytes` begin with the block's header and table; copied. Throws when they are not valid. */
export function createHead(position: number, totalBytes: number, bytes: Uint8Array): EntryHead {
  const tableEnd = blockHeaderBytes + viewAt(bytes).getUint32(40, true) * recordBytes;
  const copy = Buffer.from(bytes.subarray(0, tableEnd));
  const { header, table } = decodeHeader(copy);
  return { position, totalBytes, header, table, bytes: copy };
}

function viewAt(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The raw body; throws `journal-corrupt` when it does not decrypt or decompress to the size that the header tells. */
export function rawBody(
  header: BlockHeader,
  table: Uint8Array,
  body: Uint8Array,
  position: number,
  key: Buffer | undefined,
): Uint8Array {
  let plain = body;
  if (header.encrypted) {
    if (key === undefined) throw new TidemarkError('encryption-key', 'An entry of the journal is encrypted.');
    plain = decryptBody(key, position, header, table, body);
  }
  if (!header.compressed) return plain;
  let raw: Uint8Array;
  try {
    raw = zstdDecompressSync(plain, { maxOutputLength: Math.max(1, header.bodyRawBytes) });
  } catch (cause) {
    throw new TidemarkError('journal-corrupt', 'A record of the journal does not decompress.', { cause });
  }
  if (raw.length !== header.bodyRawBytes)
    throw new TidemarkError('journal-corrupt', 'A body has another size than told.');
  return raw;
}

/** Adds the data and zero records of the entry to the builder, in order; plain blocks up to `throughSequence`. */
export function addExtents(builder: RunBuilder, segmentId: number, head: EntryHead, throughSequence = Infinity): void {
  const view = viewAt(head.table);
  for (let at = 0; at < head.table.length; at += recordBytes) {
    if (head.header.firstSequence + view.getUint32(at + 20, true) > throughSequence) return;
    const rules = recordKinds[view.getUint8(at) as RecordKind];
    if (!rules.data && !rules.zero) continue;
    builder.add({
      disk: view.getUint16(at + 2, true),
      offsetBytes: Number(view.getBigUint64(at + 8, true)),
      lengthBytes: view.getUint32(at + 4, true),
      zero: rules.zero,
      segmentId,
      entryPosition: rules.zero ? 0 : head.position,
      bodyOffset: rules.zero ? 0 : view.getUint32(at + 16, true),
    });
  }
}

/** The run of the records at or before the cut. A folded range is in it whole or not at all. */
export function buildRun(segmentId: number, heads: readonly EntryHead[], vector: Vector): MemoryRun {
  const builder = new RunBuilder();
  for (const head of heads) {
    const { stream, incarnation, firstSequence, lastSequence, folded } = head.header;
    if (isWithin(vector, stream, { incarnation, sequence: lastSequence })) addExtents(builder, segmentId, head);
    else if (!folded && isWithin(vector, stream, { incarnation, sequence: firstSequence })) {
      addExtents(builder, segmentId, head, vector[stream]?.sequence);
    }
  }
  return builder.run();
}
