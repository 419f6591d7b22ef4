/**
 * A group directory as months of protection leave it, written by the production code with a clock of its own: a replica
 * full of data, and a journal whose checkpoints fill all default tiers. Bytes do not compress. Data at offset x of every
 * write is taken from one random pool, so that generating costs less than writing.
 */
import { randomFillSync } from 'node:crypto';
import { blockHeaderBytes, decodeBlock, encodeBlock, recordBytes, type Block } from '../../agent/src/block/block.js';
import { RecordKind, type BlockRecord, type CheckpointMark } from '../../agent/src/block/record.js';
import type { Clock } from '../../agent/src/core/clock.js';
import { checkpointId } from '../../agent/src/core/ids.js';
import { nodeRandom } from '../../agent/src/platform/node-random.js';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import { TargetGroup } from '../../agent/src/target/group.js';
import type { GroupSettings } from '../../agent/src/target/settings.js';
import { MiB } from './statistics.js';

export interface SyntheticOptions {
  /** Becomes the group's directory. */
  readonly directory: string;
  readonly group: string;
  readonly stream: string;
  readonly disk: string;
  readonly diskBytes: number;
  readonly journalBytes: number;
  readonly recordCount: number;
  readonly intervalSeconds: number;
  readonly settings: Partial<GroupSettings>;
}

export interface SyntheticJournal {
  readonly checkpointCount: number;
  readonly recordCount: number;
  readonly journalBytes: number;
  readonly segmentCount: number;
}

const hour = 3600;
const blockBodyBytes = 256 * 1024;
/** So many bytes are appended before the generator waits until they are durable. */
const flushBytes = 32 * MiB;
const sector = 4096;

/** Ages in seconds, oldest first: one an hour to 30 days, one a minute to 24 h, all of the last 4 h. */
export function tierAges(intervalSeconds: number): number[] {
  const ages: number[] = [];
  for (let age = 30 * 24 * hour - hour; age > 24 * hour; age -= hour) ages.push(age);
  for (let age = 24 * hour - 60; age > 4 * hour; age -= 60) ages.push(age);
  for (let age = 4 * hour - intervalSeconds; age >= 60; age -= intervalSeconds) ages.push(age);
  return ages;
}

export async function writeSyntheticJournal(options: SyntheticOptions): Promise<SyntheticJournal> {
  const ages = tierAges(options.intervalSeconds);
  const nowMs = Date.now();
  let timeMs = nowMs - ages[0]! * 1000;
  // Nothing but what is called here happens: timers of the group (upkeep) never fire.
  const clock: Clock = { monotonicMs: () => timeMs, wallMs: () => timeMs, after: () => ({ cancel: () => {} }) };
  const { directory, disk, diskBytes, group: name, stream, settings } = options;
  let failure: Error | undefined;
  const group = await TargetGroup.create(
    {
      storage: new NodeStorage(),
      clock,
      random: nodeRandom,
      events: { emit: () => {} },
      directory,
      onFailed: (error) => (failure = error),
      views: { opened: () => {}, closing: async () => {}, clientCount: () => 0 },
    },
    { name, streams: [stream], disks: [{ name: disk, sizeBytes: diskBytes, stream }], settings },
  );
  const { manifest, journal, replicas } = group.context;
  const epoch = manifest.state.epochs.at(-1)!;
  await manifest.append({ type: 'incarnation', stream: 0, incarnation: 1, nonce: '00'.repeat(16), epoch: epoch.epoch });

  const pool = randomFillSync(Buffer.allocUnsafe(16 * MiB));
  for (let offsetBytes = 0; offsetBytes < diskBytes; offsetBytes += 4 * MiB) {
    const length = Math.min(4 * MiB, diskBytes - offsetBytes);
    const from = (offsetBytes / 8) % (pool.length - length);
    await replicas.applyBase(0, offsetBytes, pool.subarray(from, from + length));
    if (offsetBytes % (256 * MiB) === 0) await replicas.flushBase();
  }
  await replicas.flushBase();

  const writer = new BlockWriter({ epoch: epoch.epoch, branch: epoch.branch }, (block) => journal.append(block));
  const random = xorshift(7);
  // Lengths of 1…max sectors, so that the wanted number of records fills the journal.
  const sectorsMax = Math.max(1, Math.round((2 * options.journalBytes) / options.recordCount / sector - 1));
  let written = 0;
  for (const [index, age] of ages.entries()) {
    const wanted = Math.floor((options.recordCount * (index + 1)) / ages.length);
    timeMs = nowMs - age * 1000;
    for (; written < wanted; written++) {
      const lengthBytes = sector * (1 + (random() % sectorsMax));
      const offsetBytes = sector * (random() % Math.floor((diskBytes - lengthBytes) / sector));
      const from = (random() % (pool.length - lengthBytes)) & ~7;
      writer.write(offsetBytes, pool.subarray(from, from + lengthBytes), timeMs);
      if (writer.bytesSinceFlush >= flushBytes) {
        writer.bytesSinceFlush = 0;
        await journal.flush();
      }
    }
    writer.mark(
      { id: checkpointId(nodeRandom, timeMs), kind: 'crash', sourceTimeMs: timeMs, disksMissing: [] },
      timeMs,
    );
  }
  await journal.flush();
  while (await journal.maintain());
  const { bytes, segmentCount } = journal.usage;
  await group.close();
  if (failure !== undefined) throw failure;
  return { checkpointCount: ages.length, recordCount: written, journalBytes: bytes, segmentCount };
}

/** Gathers records to blocks as a source does. */
class BlockWriter {
  bytesSinceFlush = 0;
  #records: BlockRecord[] = [];
  #body: Uint8Array[] = [];
  #bodyBytes = 0;
  #sequence = 1;
  #firstSequence = 1;

  constructor(
    private readonly epoch: { readonly epoch: number; readonly branch: string },
    private readonly append: (block: Block) => void,
  ) {}

  write(offsetBytes: number, payload: Uint8Array, timeMs: number): void {
    this.#add(RecordKind.write, offsetBytes, payload);
    if (this.#bodyBytes >= blockBodyBytes) this.#close(timeMs);
  }

  mark(mark: CheckpointMark, timeMs: number): void {
    this.#add(RecordKind.checkpoint, 0, Buffer.from(JSON.stringify(mark)));
    this.#close(timeMs);
  }

  #add(kind: RecordKind, offsetBytes: number, payload: Uint8Array): void {
    this.#records.push({
      kind,
      disk: 0,
      lengthBytes: payload.length,
      offsetBytes,
      bodyOffset: this.#bodyBytes,
      sequence: this.#sequence++,
    });
    this.#body.push(payload);
    this.#bodyBytes += payload.length;
  }

  #close(timeMs: number): void {
    const bytes = encodeBlock(
      {
        stream: 0,
        ...this.epoch,
        incarnation: 1,
        firstSequence: this.#firstSequence,
        lastSequence: this.#sequence - 1,
        folded: false,
        part: 0,
        lastPart: false,
        compressed: false,
        encrypted: false,
        bodyRawBytes: this.#bodyBytes,
        sourceTimeUs: timeMs * 1000,
      },
      this.#records,
      this.#body,
    );
    this.bytesSinceFlush += blockHeaderBytes + this.#records.length * recordBytes + this.#bodyBytes;
    this.append(decodeBlock(bytes));
    this.#records = [];
    this.#body = [];
    this.#bodyBytes = 0;
    this.#firstSequence = this.#sequence;
  }
}

/** Small, fast and the same in every run. */
function xorshift(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}
