/**
 * Merged runs: the flattened extents of consecutive segments in one file, so that a read consults few runs. They are an
 * index, rebuilt at any time: never synced, valid only as a whole, discarded when a segment of theirs leaves the list.
 *
 * `index/<level>-<first id>-<last id>-<random>.run` (a name is never used twice: the removal of a dropped file may come
 * after the same segments were merged again): run pages, fences (run.ts), ids (4 bytes each), trailer:
 *
 * | offset | bytes | trailer field |
 * |---|---|---|
 * | 0  | 4  | magic `TMRN` |
 * | 4  | 4  | version, 1 (another one: discarded) |
 * | 8  | 16 | first 16 bytes of SHA-256 of the group's uuid |
 * | 24 | 4  | level |
 * | 28 | 4  | number of extents |
 * | 32 | 4  | bytes of fences |
 * | 36 | 4  | number of ids |
 * | 40 | 4  | crc32 of fences and ids |
 * | 44 | 16 | reserved, 0 |
 * | 60 | 4  | crc32 of bytes 0..59 |
 */
import { crc32 } from 'node:zlib';
import { randomHex } from '../core/ids.js';
import type { JournalContext } from './context.js';
import { extentBytes, ExtentWriter, pageExtents } from './extent.js';
import { Cursor, Overlay } from './overlay.js';
import { encodeFences, FileRun, type Run } from './run.js';
import { groupDigest } from './segment-format.js';

const magic = 0x4e524d54;
const version = 1;
const trailerBytes = 64;
const writeExtents = pageExtents * 64;

export interface MergedRun {
  readonly path: string;
  readonly level: number;
  /** Segments in journal order. */
  readonly ids: readonly number[];
  readonly run: FileRun;
}

function encodeIds(ids: readonly number[]): Buffer {
  const bytes = Buffer.alloc(ids.length * 4);
  ids.forEach((id, index) => bytes.writeUInt32LE(id, index * 4));
  return bytes;
}

/** Merges the runs (oldest first) into a file. */
export async function writeMergedRun(
  context: JournalContext,
  level: number,
  ids: readonly number[],
  runs: readonly Run[],
): Promise<MergedRun | undefined> {
  const idBytes = encodeIds(ids);
  const path = `${context.indexDirectory}/${level}-${ids[0]}-${ids.at(-1)}-${randomHex(context.random, 8)}.run`;
  const file = await context.storage.open(path, 'create');
  try {
    const fences: Buffer[] = [];
    let position = 0;
    const flush = async (writer: ExtentWriter): Promise<void> => {
      const bytes = writer.finish();
      if (bytes.length === 0) return;
      fences.push(encodeFences(bytes));
      await file.write(bytes, position);
      position += bytes.length;
    };
    const overlay = new Overlay(runs.toReversed().map((run) => new Cursor(run)));
    let writer = new ExtentWriter(writeExtents);
    for (let next = overlay.next(); next !== undefined; next = overlay.next()) {
      if (next instanceof Cursor) {
        await next.load();
        continue;
      }
      writer.push(next);
      if (writer.count === writeExtents) {
        await flush(writer);
        writer = new ExtentWriter(writeExtents);
      }
    }
    await flush(writer);
    const fenceBytes = Buffer.concat(fences);
    const trailer = Buffer.alloc(trailerBytes);
    trailer.writeUInt32LE(magic, 0);
    trailer.writeUInt32LE(version, 4);
    groupDigest(context.uuid).copy(trailer, 8);
    trailer.writeUInt32LE(level, 24);
    trailer.writeUInt32LE(position / extentBytes, 28);
    trailer.writeUInt32LE(fenceBytes.length, 32);
    trailer.writeUInt32LE(ids.length, 36);
    trailer.writeUInt32LE(crc32(idBytes, crc32(fenceBytes)), 40);
    trailer.writeUInt32LE(crc32(trailer.subarray(0, 60)), 60);
    await file.writeAll([fenceBytes, idBytes, trailer], position);
  } finally {
    await file.close();
  }
  return loadMergedRun(context, path);
}

/** Undefined when the file is not a whole merged run of this group. */
export async function loadMergedRun(context: JournalContext, path: string): Promise<MergedRun | undefined> {
  const file = await context.storage.open(path, 'read');
  const fileBytes = await file.sizeBytes().finally(() => file.close());
  if (fileBytes < trailerBytes) return undefined;
  const trailer = await context.files.read(path, fileBytes - trailerBytes, trailerBytes);
  if (trailer.length < trailerBytes || trailer.readUInt32LE(60) !== crc32(trailer.subarray(0, 60))) return undefined;
  if (trailer.readUInt32LE(0) !== magic || trailer.readUInt32LE(4) !== version) return undefined;
  if (!trailer.subarray(8, 24).equals(groupDigest(context.uuid))) return undefined;
  const extentCount = trailer.readUInt32LE(28);
  const fencesLength = trailer.readUInt32LE(32);
  const idsLength = trailer.readUInt32LE(36) * 4;
  const at = extentCount * extentBytes;
  if (at + fencesLength + idsLength + trailerBytes !== fileBytes) return undefined;
  const tail = await context.files.read(path, at, fencesLength + idsLength);
  if (crc32(tail) !== trailer.readUInt32LE(40)) return undefined;
  const ids = Array.from({ length: idsLength / 4 }, (_, index) => tail.readUInt32LE(fencesLength + index * 4));
  const read = (position: number, bytes: number): Promise<Buffer> => context.files.read(path, position, bytes);
  const run = new FileRun(read, context.pages, 0, extentCount, tail.subarray(0, fencesLength));
  return { path, level: trailer.readUInt32LE(24), ids, run };
}
