/** A segment that will not grow any more, as readers and the journal's list know it. */
import { decodeBlock } from '../block/block.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { SegmentEntry } from '../target/manifest-records.js';
import { keyOfSegment, segmentPath, type JournalContext } from './context.js';
import { createHead, rawBody, type EntryHead } from './entry.js';
import type { Run } from './run.js';
import { hasMarks, SegmentContent } from './segment-content.js';
import { encodeFooter, readFooter, readHeads } from './segment-footer.js';
import {
  corruptSegment,
  decodeSegmentHeader,
  segmentHeaderBytes,
  type SegmentHeader,
  type Trailer,
} from './segment-format.js';
import { scanEntries } from './segment-scan.js';
import type { JournalMark, JournalSyncMark } from './types.js';

export interface Segment {
  readonly id: number;
  readonly path: string;
  readonly entry: SegmentEntry;
  readonly header: SegmentHeader;
  readonly key: Buffer | undefined;
  readonly marks: readonly JournalMark[];
  readonly syncMarks: readonly JournalSyncMark[];
  readonly fileBytes: number;
  /** Where the footer's parts are; undefined when there is no footer. */
  readonly trailer: Trailer | undefined;
  run: Run;
}

/** Reads the segment's header; a missing file is damage. */
export async function readSegmentHeader(context: JournalContext, id: number): Promise<SegmentHeader> {
  const path = segmentPath(context, id);
  try {
    const bytes = await context.files.read(path, 0, segmentHeaderBytes);
    return decodeSegmentHeader(bytes, context.uuid, id, path);
  } catch (error) {
    if (isTidemarkError(error, 'storage-not-found')) throw corruptSegment(path, 'the file is missing', error);
    throw error;
  }
}

/** Opens a sealed segment: by its footer, or by a scan that writes the footer anew. */
export async function loadSegment(context: JournalContext, entry: SegmentEntry): Promise<Segment> {
  const path = segmentPath(context, entry.id);
  const header = await readSegmentHeader(context, entry.id);
  const key = keyOfSegment(context, header.salt, header.encrypted);
  if (header.encrypted && key === undefined)
    throw new TidemarkError('encryption-key', 'The journal is encrypted.', { path });
  const file = await context.storage.open(path, 'write');
  try {
    const fileBytes = await file.sizeBytes();
    const footer = await readFooter(context, path, fileBytes, entry.validBytes, header.seed, key);
    const known = { id: entry.id, path, entry, header, key };
    if (footer !== undefined) {
      const { marks, syncMarks, run, trailer } = footer;
      return { ...known, marks, syncMarks, fileBytes, trailer, run };
    }
    const content = await scanContent(file, entry.id, header, entry.validBytes, key, path);
    const pieces = encodeFooter(content, entry.validBytes, header.seed, key);
    await file
      .truncate(entry.validBytes)
      .then(() => file.writeAll(pieces, entry.validBytes))
      .catch(() => undefined);
    return {
      ...known,
      marks: content.marks,
      syncMarks: content.syncMarks,
      fileBytes: entry.validBytes,
      trailer: undefined,
      run: content.builder.run(),
    };
  } finally {
    await file.close();
  }
}

/** The content of a sealed segment from its entries; any bad one is damage. */
export async function scanContent(
  file: { read(target: Uint8Array, positionBytes: number): Promise<number> },
  id: number,
  header: SegmentHeader,
  validBytes: number,
  key: Buffer | undefined,
  path: string,
): Promise<SegmentContent> {
  const content = new SegmentContent(id, {});
  const end = await scanEntries(file, header.seed, validBytes, ({ position, wrapper, block }) => {
    if (block === undefined) return undefined;
    const head = createHead(position, wrapper.totalBytes, block.bytes);
    const body = hasMarks(block.table) ? rawBody(block.header, block.table, block.body, position, key) : undefined;
    return content.add(head, body);
  });
  if (end.position < validBytes) throw corruptSegment(path, `${end.bad ?? end.refused} at byte ${end.position}`);
  content.abandonAll();
  return content;
}

function readerOf(context: JournalContext, path: string): { read(target: Uint8Array, at: number): Promise<number> } {
  return { read: (target, at) => context.files.readInto(path, at, target) };
}

/** The segment's entries without their bodies. */
export async function headsOf(context: JournalContext, segment: Segment): Promise<readonly EntryHead[]> {
  const heads = segment.trailer && (await readHeads(context, segment.path, segment.trailer));
  return heads ?? (await rescan(context, segment)).heads;
}

/** Builds the segment's run again from its entries, after a page of it was found damaged. */
export async function rebuildRun(context: JournalContext, segment: Segment): Promise<void> {
  segment.run = (await rescan(context, segment)).builder.run();
}

function rescan(context: JournalContext, { id, header, entry, key, path }: Segment): Promise<SegmentContent> {
  return scanContent(readerOf(context, path), id, header, entry.validBytes, key, path);
}

/** Checks every byte of the entries; throws `journal-corrupt`. */
export async function verifyEntries(
  context: JournalContext,
  segment: Pick<Segment, 'path' | 'header' | 'key'>,
  validBytes: number,
  onEntry: (totalBytes: number) => void,
): Promise<void> {
  const end = await scanEntries(
    readerOf(context, segment.path),
    segment.header.seed,
    validBytes,
    ({ position, wrapper, block }) => {
      if (block !== undefined) {
        const checked = decodeBlock(block.bytes);
        rawBody(checked.header, checked.table, checked.body, position, segment.key);
      }
      onEntry(wrapper.totalBytes);
      return undefined;
    },
  );
  if (end.position < validBytes)
    throw corruptSegment(segment.path, `${end.bad ?? end.refused} at byte ${end.position}`);
}
