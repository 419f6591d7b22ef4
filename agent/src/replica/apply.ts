/**
 * Applies a window of changes to one disk in the order that REPLICA.md gives: old bytes read and checked, chunks marked
 * unsettled (durable), bytes (durable), new digests (durable with the next mark or `settle`).
 */
import { isPlanted } from '../core/planted.js';
import { chunkBytes, chunkDigest, damagedDigest, digestsEqual, zeroDigest } from './digest.js';
import type { DigestFile } from './digest-file.js';
import { chunksPerPage, type DigestPage } from './digest-page.js';
import { sectorBytes } from './sector-cipher.js';
import type { SectorFile } from './sector-file.js';
import { isWhole, type ChunkWindow, type WindowChunk } from './window.js';

/** Old chunks read at once. */
const readParallelMax = 8;
/** Longest single write. */
const writeBytesMax = 4 * 1024 * 1024;

interface Change {
  readonly entry: WindowChunk;
  readonly page: DigestPage;
  /** Slot in the page. */
  readonly at: number;
  /** Nothing of the old chunk is on the disk that counts: all of it is written. */
  readonly fresh: boolean;
  digest: Uint8Array;
}

export interface ApplyResult {
  writtenBytes: number;
  /** Chunks whose old bytes were wrong and that the change did not replace whole: refused until repaired. */
  damagedChunks: number[];
}

/** Resolves when the bytes are durable. After a throw nothing is lost or falsely refused: apply the same again. */
export async function applyWindow(data: SectorFile, digests: DigestFile, window: ChunkWindow): Promise<ApplyResult> {
  const entries = [...window.chunks.values()].sort((a, b) => a.chunk - b.chunk);
  if (isPlanted('promote-half-range')) entries.length = Math.floor(entries.length / 2);
  const result: ApplyResult = { writtenBytes: 0, damagedChunks: [] };
  const pages: DigestPage[] = [];
  try {
    const changes: Change[] = [];
    for (let at = 0; at < entries.length; at += readParallelMax) {
      const batch = entries.slice(at, at + readParallelMax);
      const prepared = await Promise.allSettled(batch.map((entry) => prepare(data, digests, entry, pages, result)));
      for (const change of prepared) {
        if (change.status === 'rejected') throw change.reason;
        if (change.value !== undefined) changes.push(change.value);
      }
    }
    if (changes.length === 0) return result;
    for (const { page, at, digest } of changes) {
      if (digestsEqual(digest, damagedDigest)) page.setDigest(at, digest);
      page.setUnsettled(at, true);
      digests.markDirty(page);
    }
    await digests.sync();
    result.writtenBytes = await writeContents(data, changes);
    if (!isPlanted('promotion-watermark-before-fdatasync')) await data.datasync();
    for (const { page, at, digest } of changes) {
      page.setDigest(at, digest);
      page.setUnsettled(at, false);
      digests.markDirty(page);
    }
    return result;
  } finally {
    for (const page of pages) page.pinCount--;
  }
}

async function prepare(
  data: SectorFile,
  digests: DigestFile,
  entry: WindowChunk,
  pages: DigestPage[],
  result: ApplyResult,
): Promise<Change | undefined> {
  const page = await digests.pin(entry.chunk);
  pages.push(page);
  const at = entry.chunk % chunksPerPage;
  const fresh = page.isZero(at);
  if (isWhole(entry)) {
    const digest = entry.content === undefined ? zeroDigest : chunkDigest(entry.content);
    // Only a page that was never written is believed: a failed sync before a restart may show what is not on the disk.
    const unchanged = page.generation === 0 && fresh && digestsEqual(digest, zeroDigest);
    return unchanged ? undefined : { entry, page, at, fresh, digest };
  }
  let damaged = page.isDamaged(at);
  if (!fresh) damaged = !(await fillGaps(data, entry, page.isUnsettled(at) ? undefined : page.digest(at))) || damaged;
  if (damaged) result.damagedChunks.push(entry.chunk);
  return { entry, page, at, fresh, digest: damaged ? damagedDigest : chunkDigest(entry.content!) };
}

/** Lays the old bytes into what the change leaves; false when they do not match `digest` (undefined: not checked). */
async function fillGaps(data: SectorFile, entry: WindowChunk, digest: Uint8Array | undefined): Promise<boolean> {
  const old = Buffer.allocUnsafe(chunkBytes);
  await data.read(old, entry.chunk * chunkBytes);
  const good = digest === undefined || digestsEqual(chunkDigest(old), digest);
  let from = 0;
  for (const [start, end] of [...entry.ranges, [chunkBytes, chunkBytes] as [number, number]]) {
    entry.content!.set(old.subarray(from, start), from);
    from = end;
  }
  return good;
}

/** Writes the changed sectors, neighbours joined; returns the bytes written. */
async function writeContents(data: SectorFile, changes: readonly Change[]): Promise<number> {
  let pieces: Uint8Array[] = [];
  let start = 0;
  let lengthBytes = 0;
  let writtenBytes = 0;
  const send = async (): Promise<void> => {
    if (lengthBytes > 0) await data.write(pieces, start);
    writtenBytes += lengthBytes;
    pieces = [];
    lengthBytes = 0;
  };
  for (const { entry, fresh, digest } of changes) {
    const { content } = entry;
    if (content === undefined || digestsEqual(digest, zeroDigest)) continue;
    const ranges = fresh ? [[0, chunkBytes] as const] : sectors(entry.ranges);
    for (const [from, to] of ranges) {
      const offset = entry.chunk * chunkBytes + from;
      if (offset !== start + lengthBytes || lengthBytes + to - from > writeBytesMax) {
        await send();
        start = offset;
      }
      pieces.push(content.subarray(from, to));
      lengthBytes += to - from;
    }
  }
  await send();
  return writtenBytes;
}

/** Rounds ranges out to whole sectors, joining those that meet. */
function sectors(ranges: readonly [number, number][]): [number, number][] {
  const joined: [number, number][] = [];
  for (const [from, to] of ranges) {
    const start = Math.floor(from / sectorBytes) * sectorBytes;
    const end = Math.ceil(to / sectorBytes) * sectorBytes;
    const last = joined.at(-1);
    if (last !== undefined && start <= last[1]) last[1] = Math.max(last[1], end);
    else joined.push([start, end]);
  }
  return joined;
}
