/**
 * The replication stream between a source agent and a target agent, version 1, inside TLS 1.3 with mutual certificates.
 *
 * Frame: u8 0x54 ('T'), u8 type, u16 reserved 0, u32 payload bytes (little-endian), payload. Types and bounds below.
 * `json` payloads are UTF-8 JSON checked by their zod schema; `bytes` payloads are binary.
 *
 * Conversation: the source dials and sends `hello`; the target answers `welcome` or `refuse` (and closes). Then the
 * source sends `block` frames from `durableSequence + 1`, the target sends `ack` at least once a second and whenever the
 * durable watermark moved. Either side sends `ping` after `keepAliveMs` of silence and closes after three unanswered.
 * Blocks must be contiguous per incarnation: the target drops a block whose last sequence is not above what it has
 * (a duplicate after a resume) and refuses a gap. Nothing is durable before an `ack` says so.
 */
import { z } from 'zod';
import { blockBytesMax } from '../block/block.js';

export const frameHeaderBytes = 8;
export const protocolVersion = 1;

export const FrameType = {
  hello: 1,
  welcome: 2,
  refuse: 3,
  block: 4,
  ack: 5,
  ping: 6,
  pong: 7,
  /** Barrier: target asks every source agent of the group to mark and hold acknowledgements. */
  hold: 8,
  held: 9,
  release: 10,
  released: 11,
  /** Delta sync: digests of the source's chunks (source to target). */
  digests: 12,
  /** Which of those chunks the target needs (target to source). */
  need: 13,
  /** The target fences this source (failover), or lifts it; the source closes and says hello again. */
  epoch: 14,
  /** VM definitions that the source's marks shall name (source to target); answered by one `definitionState` each. */
  offer: 15,
  /** One of them, whole (source to target), asked for by `wanted`. */
  definition: 16,
  /** What the target has of an offered definition (target to source). */
  definitionState: 17,
  /** Chunks that are damaged at the target; the source sends them again (target to source). */
  repair: 18,
  /** Whether the hold of a provisional mark was unbroken (source to target); sent again until `verdictKept`. */
  verdict: 19,
  /** The verdict over that checkpoint is durable (target to source). */
  verdictKept: 20,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

const sequence = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const branch = z.string().regex(/^[0-9a-f]{16}$/);
const diskIndex = z.number().int().nonnegative().max(65_535);
const name = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,62}$/);

export const helloSchema = z.strictObject({
  protocol: z.number().int(),
  software: z.string().max(64),
  group: name,
  /** Name of the stream within the group: the source agent's name (must equal the certificate's). */
  stream: name,
  /** What the source believes; epoch 0 with branch of zeros: it knows nothing yet. */
  epoch: z.number().int().nonnegative(),
  branch,
  /** 0: a new start, which wants an incarnation; otherwise the one it has. */
  incarnation: z.number().int().nonnegative(),
  /** Random for each start, so that a repeated request for an incarnation gets the same answer. */
  nonce: z.string().regex(/^[0-9a-f]{32}$/),
  /** Highest sequence that an ack called durable in this incarnation. */
  durableSequence: sequence,
  /**
   * What the source captures now. `index`: the disk has it already in this incarnation. `formerIndexes`: those of removed
   * disks of that name, which the disk cannot have.
   */
  disks: z
    .array(
      z.strictObject({
        name,
        sizeBytes: sequence,
        index: diskIndex.optional(),
        formerIndexes: z.array(diskIndex).max(256).optional(),
      }),
    )
    .max(256),
  /** Disks that left the group since the last welcome; they matter for a new incarnation, which has no record of it. */
  disksRemoved: z.array(name).max(256).optional(),
});
export type Hello = z.infer<typeof helloSchema>;

export const welcomeSchema = z.strictObject({
  protocol: z.number().int(),
  stream: z.number().int().nonnegative().max(65_535),
  epoch: z.number().int().positive(),
  branch,
  incarnation: z.number().int().positive(),
  /** The source continues with the next one. 0 in a new incarnation. */
  durableSequence: sequence,
  /** How many streams the group has; more than one: no checkpoint timer of its own, barriers instead. */
  streamCount: z.number().int().positive(),
  checkpointIntervalMs: z.number().int().positive(),
  /**
   * Per disk: its index at the target and what it needs before it counts in a checkpoint. `initial`: the replica is
   * empty, `base` records; `delta`: digests. Given for a new incarnation; `none` when it is resumed, but for a disk that
   * is new: the source puts a `diskChange` in the stream before its first record. `sizeBytes`: what the target takes of
   * the disk; more than it had: the source may put its growth in the stream. Left out: what the hello said.
   * `sizeBefore`, in a new incarnation: the target had only so much of the disk; the rest was never compared.
   */
  disks: z.array(
    z.strictObject({
      name,
      index: diskIndex,
      sync: z.enum(['none', 'initial', 'delta']),
      sizeBytes: sequence.optional(),
      sizeBefore: sequence.optional(),
    }),
  ),
  /** In a new incarnation: the newest of this stream that the target holds durably, of an earlier incarnation. */
  previous: z.strictObject({ incarnation: z.number().int().positive(), durableSequence: sequence }).optional(),
  /** Disks, or sizes of disks, that the target does not take; the others go on. */
  disksRefused: z
    .array(
      z.strictObject({
        name,
        reason: z.string().max(512),
        /** A person wants it so: checkpoints are complete without the disk. */
        leftOut: z.boolean().optional(),
      }),
    )
    .max(256)
    .optional(),
  wallMs: z.number(),
});
export type Welcome = z.infer<typeof welcomeSchema>;

export const refuseSchema = z.strictObject({ code: z.string().max(64), message: z.string().max(1024) });

export const ackSchema = z.strictObject({
  durableSequence: sequence,
  receivedSequence: sequence,
  /** `paused`: the target cannot take more now (journal full); the source keeps what it has. */
  state: z.enum(['ok', 'paused']),
  reason: z.string().max(256).optional(),
  wallMs: z.number(),
});
export type Ack = z.infer<typeof ackSchema>;

export const pingSchema = z.strictObject({ id: z.number().int().nonnegative(), wallMs: z.number() });
export const pongSchema = z.strictObject({ id: z.number().int().nonnegative(), wallMs: z.number() });

const barrierId = z.string().max(64);
/** The source marks at once (the mark is the newest sequence given), holds later acknowledgements, answers `held`. */
export const holdSchema = z.strictObject({
  barrier: barrierId,
  checkpoint: z.strictObject({
    id: z.string().max(32),
    kind: z.enum(['crash', 'application', 'tagged']),
    label: z.string().max(128).optional(),
    attributes: z.record(z.string(), z.unknown()).optional(),
  }),
  /** The source releases by itself after this; its barrier is then broken. */
  holdMsMax: z.number().positive().max(1000),
});
export const heldSchema = z.strictObject({ barrier: barrierId, sequence, sourceTimeMs: z.number() });
export const releaseSchema = z.strictObject({ barrier: barrierId });
/** `unbroken`: acknowledgements were held from the mark until this release arrived. */
export const releasedSchema = z.strictObject({ barrier: barrierId, unbroken: z.boolean() });

export const epochSchema = z.strictObject({ epoch: z.number().int().positive(), branch, reason: z.string().max(256) });

/** Chunk of a digest, bytes; also the replica's digest unit. */
export const digestChunkBytes = 64 * 1024;
/** SHA-256 cut to its first 16 bytes; all zeros stands for a chunk of zeros. */
export const digestBytes = 16;
/**
 * `digests` payload: u32 request id, u16 disk, u16 count (1…1024), u64 first chunk, count × 16 bytes.
 * `need` payload: u32 request id, u16 disk, u16 count, u64 first chunk, ceil(count / 8) bytes, bit i (LSB first) set:
 * chunk first + i differs.
 * `repair` payload: as `need`, request id 0, bit set: the replica's chunk is damaged.
 */
export const digestCountMax = 1024;

/** VMs of a group whose definitions one agent sends. */
export const definitionCountMax = 256;
/** Bytes of one definition: domain XML, firmware variables, small media. */
export const definitionBytesMax = 8 * 1024 * 1024;
export const definitionHashBytes = 32;
/**
 * `definition` payload: 32 bytes SHA-256 of the rest, then 1…definitionBytesMax bytes of UTF-8 JSON (`VmDefinition`).
 * A mark names `attributes.definitions` = {vm: hash in hexadecimal}, only hashes that this target called `stored`.
 */
export const definitionHashSchema = z.string().regex(/^[0-9a-f]{64}$/);
export const offerSchema = z.strictObject({ hashes: z.array(definitionHashSchema).max(definitionCountMax) });
export type Offer = z.infer<typeof offerSchema>;
/** `stored`: durable. `wanted`: send it. `refused`: it is left out of the marks. */
export const definitionStateSchema = z.strictObject({
  hash: definitionHashSchema,
  state: z.enum(['stored', 'wanted', 'refused']),
  reason: z.string().max(512).optional(),
});
export type DefinitionState = z.infer<typeof definitionStateSchema>;

const checkpointId = z.string().max(32);
/** The first verdict over a checkpoint counts. `attributes`: what hooks recorded, free of secrets. */
export const verdictSchema = z.strictObject({
  checkpoint: checkpointId,
  proven: z.boolean(),
  attributes: z.record(z.string().max(64), z.unknown()),
});
export type Verdict = z.infer<typeof verdictSchema>;
export const verdictKeptSchema = z.strictObject({ checkpoint: checkpointId });

/** Largest payload accepted for each frame type. */
export const payloadBytesMax: Record<FrameType, number> = {
  1: 65_536,
  2: 65_536,
  3: 4096,
  4: blockBytesMax,
  5: 4096,
  6: 256,
  7: 256,
  8: 65_536,
  9: 512,
  10: 512,
  11: 512,
  12: 16 + digestCountMax * digestBytes,
  13: 16 + digestCountMax / 8,
  14: 1024,
  15: 65_536,
  16: definitionHashBytes + definitionBytesMax,
  17: 1024,
  18: 16 + digestCountMax / 8,
  19: 256 * 1024,
  20: 512,
};
