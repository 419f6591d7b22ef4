/** What the group's manifest (a record log, see core/record-log.ts) says: everything that data safety rests on. */
import { z } from 'zod';
import { groupStates } from './state-machine.js';

const sequence = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
export const positionSchema = z.strictObject({ incarnation: z.number().int().nonnegative(), sequence });
export const vectorSchema = z.record(z.coerce.number<string>().int(), positionSchema);
const branch = z.string().regex(/^[0-9a-f]{16}$/);

/** A checkpoint as people see it, kept where its mark has left the journal. */
export const checkpointSchema = z.strictObject({
  id: z.string(),
  kind: z.enum(['crash', 'application', 'tagged']),
  label: z.string().optional(),
  sourceTimeMs: z.number(),
  /** No disk of the group was missing. Only complete ones are failed over to unless asked for by id. */
  complete: z.boolean(),
  disksMissing: z.array(z.number().int()),
  /** Disks of the source that this group had not taken yet; it is incomplete then. */
  disksUnknown: z.number().int().positive().optional(),
  epoch: z.number().int(),
  vector: vectorSchema,
  attributes: z.record(z.string(), z.unknown()).optional(),
  /** An application checkpoint as long as no verdict proves it; its kind is `crash` then. */
  provisional: z.boolean().optional(),
});
export type Checkpoint = z.infer<typeof checkpointSchema>;

/** Stands for the target in verdicts over marks of several streams: no source speaks for another. */
export const coordinatorStream = -1;

/** A segment as the manifest lists it; order in the list is journal order. */
export const segmentEntrySchema = z.strictObject({
  id: z.number().int().positive(),
  /** Bytes of entries that count; what lies behind is ignored. */
  validBytes: z.number().int().nonnegative(),
  recordCount: z.number().int().nonnegative(),
  first: vectorSchema,
  last: vectorSchema,
});

export const manifestRecordSchema = z.discriminatedUnion('type', [
  /** First record. */
  z.strictObject({
    type: z.literal('group'),
    name: z.string(),
    formatVersion: z.literal(1),
    uuid: z.string(),
    createdMs: z.number(),
    keyCheck: z.string().optional(),
  }),
  /**
   * What the disk of that index is from `since` on, a position in its stream; left out: from the beginning. A checkpoint is
   * opened with the disks and sizes that hold at its vector. The same position again replaces. An index is never reused.
   */
  z.strictObject({
    type: z.literal('disk'),
    index: z.number().int(),
    name: z.string(),
    sizeBytes: z.number().int(),
    stream: z.number().int(),
    removed: z.boolean(),
    since: positionSchema.optional(),
    /** The index is given, the stream has not said yet from where on the disk is there: it is in no checkpoint. */
    pending: z.boolean().optional(),
    /** The source does not send the disk: checkpoints are incomplete without it. */
    missing: z.boolean().optional(),
    /** Of a missing one: its source said that it does not have it, so another source of the group may send it. */
    left: z.boolean().optional(),
    /** Raw file on this host that the image is made from; gone when it holds all of it. */
    seed: z.string().optional(),
  }),
  z.strictObject({ type: z.literal('stream'), index: z.number().int(), name: z.string() }),
  /** A start of a source agent; durable before its first block is taken. */
  z.strictObject({
    type: z.literal('incarnation'),
    stream: z.number().int(),
    incarnation: z.number().int(),
    nonce: z.string(),
    epoch: z.number().int(),
  }),
  z.strictObject({
    type: z.literal('epoch'),
    epoch: z.number().int(),
    branch,
    parentBranch: branch.optional(),
    checkpoint: z.string().optional(),
    holder: z.enum(['source', 'target']),
    reason: z.string(),
    wallMs: z.number(),
  }),
  /** A segment was begun: its file is in the directory (directory synced). */
  z.strictObject({ type: z.literal('segment-open'), id: z.number().int().positive() }),
  /** The segment will not grow any more. */
  z.strictObject({ type: z.literal('segment-sealed'), segment: segmentEntrySchema }),
  /** Compaction and promotion: `removed` leave the list, `added` take the place of the first removed. */
  z.strictObject({
    type: z.literal('segments-replaced'),
    removed: z.array(z.number().int()),
    added: z.array(segmentEntrySchema),
  }),
  /** The replica is about to be changed up to this cut: its digests of the touched chunks mean nothing until `promoted`. */
  z.strictObject({ type: z.literal('promoting'), through: vectorSchema, checkpoint: checkpointSchema }),
  z.strictObject({ type: z.literal('promoted'), through: vectorSchema, checkpoint: checkpointSchema }),
  /** Verdict over a barrier checkpoint of several streams. */
  z.strictObject({ type: z.literal('barrier'), checkpoint: z.string(), barrier: z.string(), vector: vectorSchema }),
  /**
   * What the source says of the hold of a provisional mark, or this target (`coordinatorStream`) of one over several source
   * agents; the first one counts.
   */
  z.strictObject({
    type: z.literal('verdict'),
    checkpoint: z.string(),
    stream: z.number().int(),
    proven: z.boolean(),
    attributes: z.record(z.string(), z.unknown()),
  }),
  z.strictObject({
    type: z.literal('pin'),
    id: z.string(),
    checkpoint: z.string(),
    reason: z.string(),
    removed: z.boolean(),
  }),
  z.strictObject({
    type: z.literal('view'),
    id: z.string(),
    checkpoint: z.string(),
    purpose: z.enum(['drill', 'browse', 'production', 'named']),
    scratchLimitBytes: z.number().int(),
    label: z.string().optional(),
    /** Of a named one: since when it is kept, wall clock. */
    keptMs: z.number().optional(),
    /** Of a kept one: for so long. Left out: as the group's settings say. */
    keptHours: z.number().optional(),
    removed: z.boolean(),
  }),
  /** One durable step of an operation; the newest of an id is its state. */
  z.strictObject({
    type: z.literal('operation'),
    id: z.string(),
    kind: z.string(),
    step: z.string(),
    arguments: z.record(z.string(), z.unknown()),
    result: z.record(z.string(), z.unknown()).optional(),
    startedMs: z.number(),
    /** Certificate name of the caller. */
    drivenBy: z.string(),
    wallMs: z.number(),
  }),
  z.strictObject({ type: z.literal('state'), state: z.enum(groupStates) }),
  z.strictObject({ type: z.literal('settings'), settings: z.record(z.string(), z.unknown()) }),
]);
export type ManifestRecord = z.infer<typeof manifestRecordSchema>;
export type SegmentEntry = z.infer<typeof segmentEntrySchema>;

/** The part of the manifest that the journal writes and reads; the group implements it over its record log. */
export interface ManifestLog {
  /** Resolves when the record is durable; records become durable in call order. A rejection poisons the manifest. */
  append(record: ManifestRecord): Promise<void>;
}
