/** Writes and reads the footer of a sealed segment (SEGMENT.md, "Footer"). */
import { crc32 } from 'node:zlib';
import { TidemarkError } from '../core/errors.js';
import type { JournalContext } from './context.js';
import { decryptMarks, encryptMarks } from './encryption.js';
import { createHead, type EntryHead } from './entry.js';
import { extentBytes } from './extent.js';
import { encodeFences, FileRun } from './run.js';
import type { SegmentContent } from './segment-content.js';
import { decodeTrailer, encodeTrailer, trailerBytes, type Section, type Trailer } from './segment-format.js';
import type { JournalMark, JournalSyncMark } from './types.js';

/** The footer's pieces, to be written at `entriesEnd`. */
export function encodeFooter(
  content: SegmentContent,
  entriesEnd: number,
  seed: number,
  key: Buffer | undefined,
): Buffer[] {
  const heads: Buffer[] = [];
  for (const head of content.heads) {
    const place = Buffer.alloc(8);
    place.writeUInt32LE(head.position, 0);
    place.writeUInt32LE(head.totalBytes, 4);
    heads.push(place, Buffer.from(head.bytes.buffer, head.bytes.byteOffset, head.bytes.byteLength));
  }
  const plainMarks = Buffer.from(JSON.stringify({ marks: content.marks, syncMarks: content.syncMarks }), 'utf8');
  const marks = key === undefined ? plainMarks : encryptMarks(key, plainMarks);
  const run = content.builder.run();
  const fences = encodeFences(run.bytes);
  let position = entriesEnd;
  const place = (pieces: readonly Buffer[]): Section => {
    const section = { position, bytes: 0, crc: 0 };
    for (const piece of pieces) {
      section.bytes += piece.length;
      section.crc = crc32(piece, section.crc);
    }
    position += section.bytes;
    return section;
  };
  const headsSection = place(heads);
  const marksSection = place([marks]);
  const runPosition = position;
  position += run.bytes.length;
  const trailer = encodeTrailer(seed, {
    entriesEnd,
    heads: headsSection,
    marks: marksSection,
    runPosition,
    extentCount: run.extentCount,
    fences: place([fences]),
    recordCount: content.recordCount,
  });
  return [Buffer.concat(heads), marks, run.bytes, fences, trailer];
}

export interface Footer {
  readonly trailer: Trailer;
  readonly run: FileRun;
  readonly marks: readonly JournalMark[];
  readonly syncMarks: readonly JournalSyncMark[];
}

/** The footer, without its heads; undefined when it is missing or bad in any way (then: scan). */
export async function readFooter(
  context: JournalContext,
  path: string,
  fileBytes: number,
  entriesEnd: number,
  seed: number,
  key: Buffer | undefined,
): Promise<Footer | undefined> {
  const at = fileBytes - trailerBytes;
  if (at < entriesEnd) return undefined;
  const trailer = decodeTrailer(await context.files.read(path, at, trailerBytes), seed, path);
  if (trailer === undefined || trailer.entriesEnd !== entriesEnd) return undefined;
  const sealed = await readSection(context, path, trailer.marks);
  const fences = await readSection(context, path, trailer.fences);
  if (sealed === undefined || fences === undefined) return undefined;
  const marks = key === undefined ? sealed : decryptMarks(key, sealed);
  const read = (position: number, bytes: number): Promise<Buffer> => context.files.read(path, position, bytes);
  const run = new FileRun(read, context.pages, trailer.runPosition, trailer.extentCount, fences);
  if (trailer.runPosition + trailer.extentCount * extentBytes !== trailer.fences.position) return undefined;
  return { trailer, run, ...(JSON.parse(marks.toString('utf8')) as Pick<Footer, 'marks' | 'syncMarks'>) };
}

/** The heads section; undefined when it is damaged. */
export async function readHeads(
  context: JournalContext,
  path: string,
  trailer: Trailer,
): Promise<EntryHead[] | undefined> {
  const bytes = await readSection(context, path, trailer.heads);
  if (bytes === undefined) return undefined;
  const heads: EntryHead[] = [];
  try {
    for (let at = 0; at < bytes.length;) {
      const head = createHead(bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4), bytes.subarray(at + 8));
      heads.push(head);
      at += 8 + head.bytes.length;
    }
  } catch (error) {
    if (error instanceof TidemarkError) return undefined;
    throw error;
  }
  return heads;
}

async function readSection(context: JournalContext, path: string, section: Section): Promise<Buffer | undefined> {
  const bytes = await context.files.read(path, section.position, section.bytes);
  return bytes.length === section.bytes && crc32(bytes) === section.crc ? bytes : undefined;
}
