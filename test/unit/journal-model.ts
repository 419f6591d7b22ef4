/** Random blocks and a plain model of the disks at every position, for the journal's tests. */
import { zstdCompressSync } from 'node:zlib';
import { decodeBlock, encodeBlock, type Block } from '../../agent/src/block/block.js';
import { RecordKind, type BlockRecord } from '../../agent/src/block/record.js';
import { RecordLog } from '../../agent/src/core/record-log.js';
import { openJournal, type JournalOptions } from '../../agent/src/journal/journal.js';
import type { Vector } from '../../agent/src/journal/position.js';
import type { Journal, JournalCut } from '../../agent/src/journal/types.js';
import type { ManifestRecord } from '../../agent/src/target/manifest-records.js';
import type { MemoryStorage } from './journal-memory-storage.js';

export const diskBytes = 64 * 1024;
export const uuid = '00000000-0000-4000-8000-000000000001';

export function makeBlock(
  input: {
    stream?: number;
    incarnation?: number;
    first: number;
    last?: number;
    folded?: boolean;
    part?: number;
    lastPart?: boolean;
    compressed?: boolean;
  },
  records: readonly {
    kind: number;
    disk?: number;
    offset?: number;
    length?: number;
    payload?: Buffer;
    sequence?: number;
  }[],
): Block {
  const bodies: Buffer[] = [];
  let at = 0;
  const list: BlockRecord[] = records.map((record, index) => {
    const payload = record.payload;
    const bodyOffset = payload ? at : 0;
    if (payload) {
      bodies.push(payload);
      at += payload.length;
    }
    return {
      kind: record.kind as BlockRecord['kind'],
      disk: record.disk ?? 0,
      offsetBytes: record.offset ?? 0,
      lengthBytes: payload?.length ?? record.length ?? 0,
      bodyOffset,
      sequence: record.sequence ?? input.first + index,
    };
  });
  const raw = Buffer.concat(bodies);
  const compressed = (input.compressed ?? false) && raw.length > 0;
  const bytes = encodeBlock(
    {
      stream: input.stream ?? 0,
      epoch: 1,
      branch: '00000000000000aa',
      incarnation: input.incarnation ?? 1,
      firstSequence: input.first,
      lastSequence: input.last ?? input.first + records.length - 1,
      folded: input.folded ?? false,
      part: input.part ?? 0,
      lastPart: input.lastPart ?? false,
      compressed,
      encrypted: false,
      bodyRawBytes: raw.length,
      sourceTimeUs: input.first,
    },
    list,
    compressed ? [zstdCompressSync(raw)] : [raw],
  );
  return decodeBlock(bytes);
}

/** Disk images after each recoverable sequence of stream 0. */
export class Model {
  disks: Map<number, Buffer> = new Map([1, 2].map((disk) => [disk, Buffer.alloc(diskBytes)]));
  sequence = 0;
  /** Images at each recoverable sequence. */
  states = new Map<number, Map<number, Buffer>>();
  marks: { id: string; sequence: number }[] = [];

  constructor(
    private readonly random: () => number,
    private readonly incarnation: number,
  ) {
    this.states.set(0, this.#copy());
  }

  #copy(): Map<number, Buffer> {
    return new Map([...this.disks].map(([disk, bytes]) => [disk, Buffer.from(bytes)]));
  }

  #int(max: number): number {
    return Math.floor(this.random() * max);
  }

  #write(): { kind: number; disk: number; offset: number; length?: number; payload?: Buffer } {
    const disk = 1 + this.#int(2);
    const offset = this.#int(diskBytes / 512) * 512;
    const length = Math.min(diskBytes - offset, (1 + this.#int(12)) * 512);
    const bytes = this.disks.get(disk)!;
    if (this.random() < 0.15) {
      bytes.fill(0, offset, offset + length);
      return { kind: this.random() < 0.5 ? RecordKind.zero : RecordKind.discard, disk, offset, length };
    }
    const payload = Buffer.alloc(length, 1 + this.#int(255));
    for (let at = 0; at < length; at += 512) payload.writeUInt32LE(this.#int(2 ** 32), at);
    payload.copy(bytes, offset);
    return { kind: this.random() < 0.1 ? RecordKind.syncWrite : RecordKind.write, disk, offset, payload };
  }

  #mark(): { kind: number; payload: Buffer } {
    const id = `cp${this.incarnation}-${this.sequence}`;
    return {
      kind: RecordKind.checkpoint,
      payload: Buffer.from(JSON.stringify({ id, kind: 'crash', sourceTimeMs: this.sequence, disksMissing: [] })),
    };
  }

  /** The next blocks: a plain one, or a folded range in parts, sometimes with a mark at the end. */
  next(): Block[] {
    const { incarnation } = this;
    const compressed = this.random() < 0.5;
    const first = this.sequence + 1;
    const count = 1 + this.#int(6);
    const marked = this.random() < 0.3;
    if (this.random() < 0.75) {
      const records: ReturnType<Model['next']> extends never ? never : Parameters<typeof makeBlock>[1][number][] = [];
      for (let index = 0; index < count; index++) {
        records.push(this.#write());
        this.sequence++;
        this.states.set(this.sequence, this.#copy());
      }
      if (marked) {
        this.sequence++;
        const mark = this.#mark();
        records.push(mark);
        this.#marked();
      }
      return [makeBlock({ incarnation, first, compressed }, records)];
    }
    const last = this.sequence + 20;
    const parts = 1 + this.#int(3);
    const blocks: Block[] = [];
    for (let part = 0; part < parts; part++) {
      const records: Parameters<typeof makeBlock>[1][number][] = [];
      for (let index = 0; index < count; index++) records.push({ ...this.#write(), sequence: first });
      const lastPart = part === parts - 1;
      if (lastPart) {
        this.sequence = last;
        if (marked) records.push({ ...this.#mark(), sequence: last });
      }
      blocks.push(makeBlock({ incarnation, first, last, folded: true, part, lastPart, compressed }, records));
    }
    this.states.set(last, this.#copy());
    if (marked) this.marks.push({ id: `cp${incarnation}-${last}`, sequence: last });
    return blocks;
  }

  #marked(): void {
    this.states.set(this.sequence, this.#copy());
    this.marks.push({ id: `cp${this.incarnation}-${this.sequence}`, sequence: this.sequence });
  }

  /** Back to a recoverable sequence. */
  rewind(sequence: number): void {
    this.disks = new Map([...this.states.get(sequence)!].map(([disk, bytes]) => [disk, Buffer.from(bytes)]));
    this.sequence = sequence;
    for (const known of [...this.states.keys()]) if (known > sequence) this.states.delete(known);
    this.marks = this.marks.filter((mark) => mark.sequence <= sequence);
  }
}

export interface Opened {
  journal: Journal;
  manifest: RecordLog;
}

export async function openTest(
  storage: MemoryStorage,
  random: () => number,
  more: Partial<JournalOptions> = {},
): Promise<Opened> {
  const { log, records } = await RecordLog.open(storage, 'group', 'manifest');
  const journal = await openJournal({
    storage,
    random: {
      float: random,
      bytes: (count) => Buffer.from(Array.from({ length: count }, () => Math.floor(random() * 256))),
    },
    directory: 'group',
    groupUuid: uuid,
    manifest: log as { append(record: ManifestRecord): Promise<void> },
    records: records as ManifestRecord[],
    segmentBytes: 24 * 1024,
    ...more,
  });
  return { journal, manifest: log };
}

/** The disk at the cut over a base image: by random lookups, and by `pieces`. */
export async function readCut(cut: JournalCut, disk: number, base: Buffer, random: () => number): Promise<Buffer> {
  const byLookup = Buffer.from(base);
  for (let at = 0; at < diskBytes;) {
    const length = Math.min(diskBytes - at, 1 + Math.floor(random() * 20_000));
    let expected = at;
    for (const piece of await cut.lookup(disk, at, length)) {
      if (piece.offsetBytes !== expected) throw new Error('pieces leave a hole');
      expected += piece.lengthBytes;
      const target = byLookup.subarray(piece.offsetBytes, expected);
      if (piece.source === 'zero') target.fill(0);
      if (piece.source === 'data') {
        const skip = Math.floor(random() * piece.lengthBytes);
        await cut.read(piece, skip, target.subarray(skip));
        await cut.read(piece, 0, target.subarray(0, skip));
      }
    }
    at += length;
    if (expected !== at) throw new Error('pieces do not cover');
  }
  const byPieces = Buffer.from(base);
  let last = 0;
  for await (const piece of cut.pieces(disk)) {
    if (piece.offsetBytes < last) throw new Error('pieces out of order');
    last = piece.offsetBytes + piece.lengthBytes;
    if (piece.source === 'zero') byPieces.fill(0, piece.offsetBytes, last);
    else await cut.read(piece, 0, byPieces.subarray(piece.offsetBytes, last));
  }
  if (!byPieces.equals(byLookup)) throw new Error('lookup and pieces disagree');
  return byLookup;
}

export const at = (sequence: number, incarnation = 1): Vector => ({ 0: { incarnation, sequence } });
