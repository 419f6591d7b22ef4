/** Promotion: lays a cut of the journal over the replica. The group writes `promoting` before and `promoted` after. */
import type { JournalCut, Piece } from '../journal/types.js';
import type { ReplicaDisk } from './replica-disk.js';
import { chunkParts, ChunkWindow } from './window.js';

/** Journal reads in flight. */
const readParallelMax = 16;
/** One journal read; a piece is at most a record (1 MiB) long, longer ones are split. */
const readBytesMax = 1024 * 1024;

export interface PromoteResult {
  pieceCount: number;
  /** Bytes of `data` pieces read from the cut. */
  dataBytes: number;
  /** Bytes written to raw images. */
  writtenBytes: number;
  /** Chunks that were wrong before and were not replaced whole: refused until a delta sync. */
  damaged: { disk: number; chunk: number }[];
}

export interface PromoteOptions {
  readonly signal?: AbortSignal;
  /** Called after each window. */
  readonly onProgress?: (result: PromoteResult) => void;
}

/**
 * Applies every piece of one disk. Idempotent: after a throw, an abort or a crash the same call is made again (the
 * replica is between two cuts until then; views read only what their own cut leaves to it).
 */
export async function promoteDisk(
  disk: ReplicaDisk,
  cut: JournalCut,
  result: PromoteResult,
  options: PromoteOptions = {},
): Promise<void> {
  let window = new ChunkWindow();
  let reads: Promise<void>[] = [];
  const drain = async (): Promise<void> => {
    const running = reads;
    reads = [];
    for (const read of await Promise.allSettled(running)) if (read.status === 'rejected') throw read.reason;
  };
  const applyWindow = async (): Promise<void> => {
    await drain();
    options.signal?.throwIfAborted();
    const applied = await disk.apply(window);
    window = new ChunkWindow();
    result.writtenBytes += applied.writtenBytes;
    for (const chunk of applied.damagedChunks) result.damaged.push({ disk: disk.index, chunk });
    options.onProgress?.(result);
  };
  try {
    for await (const piece of cut.pieces(disk.index)) {
      result.pieceCount++;
      const end = Math.min(piece.offsetBytes + piece.lengthBytes, disk.sizeBytes);
      for (let at = piece.offsetBytes; at < end; at += readBytesMax) {
        const lengthBytes = Math.min(readBytesMax, end - at);
        if (piece.source === 'zero') {
          for (const part of chunkParts(at, lengthBytes)) window.zero(part.chunk, part.start, part.lengthBytes);
        } else if (piece.source === 'data') {
          result.dataBytes += lengthBytes;
          reads.push(readPiece(cut, piece, at, lengthBytes, window));
          if (reads.length >= readParallelMax) await drain();
        }
        if (window.isFull) await applyWindow();
      }
    }
    await applyWindow();
  } finally {
    await Promise.allSettled(reads);
  }
}

async function readPiece(
  cut: JournalCut,
  piece: Piece,
  at: number,
  lengthBytes: number,
  window: ChunkWindow,
): Promise<void> {
  const skip = at - piece.offsetBytes;
  const parts = [...chunkParts(at, lengthBytes)].map((part) => ({
    ...part,
    target: window.place(part.chunk, part.start, part.lengthBytes),
  }));
  const only = parts.length === 1 ? parts[0] : undefined;
  if (only !== undefined) return cut.read(piece, skip, only.target);
  const bytes = Buffer.allocUnsafe(lengthBytes);
  await cut.read(piece, skip, bytes);
  for (const part of parts) part.target.set(bytes.subarray(part.skipBytes, part.skipBytes + part.lengthBytes));
}
