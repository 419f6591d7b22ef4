/** Finds out what a journal holds after any stop: the rules are in SEGMENT.md, "What a crash can leave". */
import type { StorageFile } from '../core/storage.js';
import { TidemarkError } from '../core/errors.js';
import type { ManifestLog, SegmentEntry } from '../target/manifest-records.js';
import { keyOfSegment, segmentPath, type JournalContext } from './context.js';
import { createHead, rawBody } from './entry.js';
import type { JournalManifestState } from './manifest-state.js';
import { comparePositions, type Position, type Vector } from './position.js';
import { hasMarks, SegmentContent } from './segment-content.js';
import { encodeFooter } from './segment-footer.js';
import { corruptSegment, segmentHeaderBytes } from './segment-format.js';
import { isWitnessed, scanEntries } from './segment-scan.js';
import { loadSegment, readSegmentHeader, type Segment } from './segment.js';

/** Sealed segments opened at once. */
const openConcurrency = 16;
const rewriteBytes = 4 * 1024 * 1024;

export interface Recovered {
  readonly segments: Segment[];
  /** Last position of each stream; the promoted one where the journal holds nothing newer. */
  readonly last: Record<number, Position>;
}

/** Opens every listed segment; an open one is checked entry by entry, cut, made durable, and sealed. */
export async function recoverSegments(
  context: JournalContext,
  state: JournalManifestState,
  manifest: ManifestLog,
): Promise<Recovered> {
  await context.storage.makeDirectory(context.segmentDirectory);
  const segments: Segment[] = [];
  const last: Record<number, Position> = {};
  const listed = [...state.segments];
  const sealed = listed.flatMap((each) => each.entry ?? []);
  const loaded = new Map<number, Segment>();
  for (let from = 0; from < sealed.length; from += openConcurrency) {
    const some = sealed.slice(from, from + openConcurrency);
    for (const segment of await Promise.all(some.map((entry) => loadSegment(context, entry))))
      loaded.set(segment.id, segment);
  }
  for (const { id } of listed) {
    const segment = loaded.get(id) ?? (await recoverOpen(context, id, last, manifest));
    if (segment === undefined) continue;
    checkOrder(segment, last);
    segments.push(segment);
  }
  await removeUnlisted(context, segments);
  for (const [stream, position] of Object.entries(state.promoted)) {
    const found = last[Number(stream)];
    if (found === undefined || comparePositions(found, position) < 0) last[Number(stream)] = position;
  }
  return { segments, last };
}

/** A sealed segment must go on where the ones before it end. Moves `last`. */
function checkOrder({ entry, path }: Segment, last: Record<number, Position>): void {
  for (const [key, first] of Object.entries(entry.first)) {
    const before = last[Number(key)];
    const next = before === undefined || first.incarnation > before.incarnation;
    if (!next && (first.incarnation !== before.incarnation || first.sequence !== before.sequence + 1)) {
      throw corruptSegment(path, `stream ${key} does not go on at ${before.incarnation}/${before.sequence}`);
    }
  }
  for (const [key, position] of Object.entries(entry.last)) last[Number(key)] = position;
}

async function recoverOpen(
  context: JournalContext,
  id: number,
  before: Vector,
  manifest: ManifestLog,
): Promise<Segment | undefined> {
  const path = segmentPath(context, id);
  const header = await readSegmentHeader(context, id);
  const key = keyOfSegment(context, header.salt, header.encrypted);
  if (header.encrypted && key === undefined)
    throw new TidemarkError('encryption-key', 'The journal is encrypted.', { path });
  const content = new SegmentContent(id, { ...before });
  const file = await context.storage.open(path, 'write');
  let entry: SegmentEntry;
  try {
    const fileBytes = await file.sizeBytes();
    let witnessedBytes = segmentHeaderBytes;
    const end = await scanEntries(file, header.seed, fileBytes, ({ position, wrapper, block }) => {
      witnessedBytes = Math.max(witnessedBytes, wrapper.durableBytes);
      if (block === undefined) return undefined;
      const head = createHead(position, wrapper.totalBytes, block.bytes);
      const body = hasMarks(block.table) ? rawBody(block.header, block.table, block.body, position, key) : undefined;
      return content.add(head, body);
    });
    if (end.refused !== undefined) throw corruptSegment(path, `${end.refused} at byte ${end.position}`);
    if (end.bad !== undefined) {
      const damaged = witnessedBytes > end.position || (await isWitnessed(file, header.seed, end.position, fileBytes));
      if (damaged) throw corruptSegment(path, `${end.bad} at byte ${end.position}, which was durable`);
    }
    content.abandonAll();
    const { recordCount, first, last } = content;
    entry = { id, validBytes: end.position, recordCount, first: { ...first }, last: { ...last } };
    if (content.heads.length > 0)
      await makeDurable(file, witnessedBytes, end.position, encodeFooter(content, end.position, header.seed, key));
  } finally {
    await file.close();
  }
  if (content.heads.length === 0) {
    await manifest.append({ type: 'segments-replaced', removed: [id], added: [] });
    return undefined;
  }
  await manifest.append({ type: 'segment-sealed', segment: entry });
  return loadSegment(context, entry);
}

/** Cuts the tail, writes again what may have been in the page cache only, and seals. The footer may be left out. */
async function makeDurable(
  file: StorageFile,
  fromBytes: number,
  endBytes: number,
  footer: readonly Buffer[],
): Promise<void> {
  await file.truncate(endBytes);
  for (let at = fromBytes; at < endBytes; at += rewriteBytes) {
    const bytes = Buffer.alloc(Math.min(rewriteBytes, endBytes - at));
    await file.read(bytes, at);
    await file.write(bytes, at);
  }
  await file.datasync();
  try {
    await file.writeAll(footer, endBytes);
    await file.datasync();
  } catch {
    // An index only: the next open scans.
  }
}

async function removeUnlisted(context: JournalContext, segments: readonly Segment[]): Promise<void> {
  const listed = new Set(segments.map((segment) => segment.path));
  for (const name of await context.storage.list(context.segmentDirectory)) {
    const path = `${context.segmentDirectory}/${name}`;
    if (listed.has(path)) continue;
    await context.files.close(path);
    await context.storage.remove(path);
  }
}

/** Greatest segment id in the directory: ids are not given twice even when their segments left the manifest. */
export async function greatestFileId(context: JournalContext): Promise<number> {
  await context.storage.makeDirectory(context.segmentDirectory);
  const names = await context.storage.list(context.segmentDirectory);
  return names.reduce((greatest, name) => Math.max(greatest, parseInt(name, 10) || 0), 0);
}
