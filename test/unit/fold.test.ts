import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { decodeBlock, decodeTable } from '../../agent/src/block/block.js';
import { blockBody } from '../../agent/src/block/body.js';
import { RecordKind, recordKinds } from '../../agent/src/block/record.js';
import { CompressionPolicy } from '../../agent/src/link/compression.js';
import { Coverage } from '../../agent/src/link/coverage.js';
import { DirtyMap, dirtyChunkBytes } from '../../agent/src/link/dirty-map.js';
import { BlockEncoder } from '../../agent/src/link/encoder.js';
import { foldRun } from '../../agent/src/link/fold.js';
import { ReadGuard } from '../../agent/src/link/read-guard.js';
import { RecordQueue } from '../../agent/src/link/record-queue.js';
import { Spool } from '../../agent/src/link/spool.js';
import { SimWorld } from '../sim/world/sim-world.js';

const size = 3 * 1024 * 1024;
const encoder = new BlockEncoder({ compress: (raw) => raw }, new CompressionPolicy(() => 0));
encoder.identity = { stream: 1, incarnation: 1, epoch: 1, branch: '0'.repeat(16) };
const yieldNow = (): Promise<void> => Promise.resolve();

interface Op {
  readonly disk: number;
  readonly at: number;
  readonly length: number;
  readonly kind: 'write' | 'zero' | 'mark';
  readonly fill: number;
}

const op: fc.Arbitrary<Op> = fc.record({
  disk: fc.nat(1),
  at: fc.oneof(fc.nat(size - 1), fc.integer({ min: 1_000_000, max: 1_100_000 })),
  length: fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.integer({ min: 1, max: 1024 * 1024 })),
  kind: fc.constantFrom('write', 'write', 'write', 'zero', 'mark'),
  fill: fc.integer({ min: 1, max: 255 }),
});

function spoolOf(storage: ConstructorParameters<typeof Spool>[0]['storage'], capacityBytes: number): Spool {
  return new Spool({ storage, directory: '/spool', capacityBytes, fileBytes: 1024 * 1024 });
}

const partBodyBytes = 1024 * 1024;

describe('folding', () => {
  test('leaves the bytes of the run, from memory and from the spool', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(op, { minLength: 1, maxLength: 25 }), fc.boolean(), async (ops, spooled) => {
        const world = new SimWorld(1);
        const spool = spoolOf(world.addHost('h').start().storage, 1e9);
        await world.drive(spool.open());
        const queue = new RecordQueue(spool);
        const model = [new Uint8Array(size), new Uint8Array(size)];
        for (const { disk, at, length: wanted, kind, fill } of ops) {
          const length = Math.min(wanted, size - at);
          if (kind === 'mark') {
            const bytes = Buffer.from('{}');
            queue.append({ kind: RecordKind.checkpoint, disk: 0, offsetBytes: 0, lengthBytes: 2, bytes }, 1, 'data');
            queue.seal('crash');
            continue;
          }
          model[disk]!.fill(kind === 'zero' ? 0 : fill, at, at + length);
          const bytes = kind === 'zero' ? undefined : new Uint8Array(length).fill(fill);
          queue.append({ kind: RecordKind[kind], disk, offsetBytes: at, lengthBytes: length, bytes }, 1, 'data');
        }
        queue.seal('open');
        for (const [index, item] of queue.items.entries()) {
          if (!spooled || index % 3 === 0 || item.content.at !== 'raw') continue;
          const place = {
            firstSequence: item.first,
            lastSequence: item.last,
            folded: false,
            part: 0,
            lastPart: false,
            sourceTimeUs: 1,
          };
          const block = await encoder.encodeCopy(item.content.records, item.content.bodyBytes, place);
          queue.setContent(
            item,
            index % 3 === 1
              ? { at: 'memory', blocks: [block], payloads: [] }
              : { at: 'spool', extents: [await world.drive(spool.append(block))] },
          );
        }
        const folding = foldRun(queue.items, {
          spool,
          encoder,
          place: () => 'memory',
          shareMax: 1,
          partBodyBytes,
          yieldNow,
        });
        const result = await world.drive(folding);
        if (typeof result === 'string') throw new Error(result);
        const state = [new Uint8Array(size), new Uint8Array(size)];
        const seen = [new Set<number>(), new Set<number>()];
        let marks = 0;
        for (const [part, pieces] of result.blocks.entries()) {
          const block = decodeBlock(Buffer.concat(pieces));
          expect(block.header).toMatchObject({
            folded: true,
            part,
            lastPart: part === result.blocks.length - 1,
            firstSequence: 1,
            lastSequence: queue.sequence,
          });
          expect(block.header.bodyRawBytes).toBeLessThanOrEqual(partBodyBytes);
          const body = blockBody(block);
          for (const { kind, disk, offsetBytes, lengthBytes, bodyOffset } of decodeTable(block.header, block.table)) {
            if (kind === RecordKind.checkpoint) marks++;
            else if (recordKinds[kind].zero) state[disk]!.fill(0, offsetBytes, offsetBytes + lengthBytes);
            else {
              state[disk]!.set(body.subarray(bodyOffset, bodyOffset + lengthBytes), offsetBytes);
              if (seen[disk]!.has(offsetBytes)) throw new Error('a byte travels twice');
              seen[disk]!.add(offsetBytes);
            }
          }
        }
        expect(marks).toBe(ops.at(-1)!.kind === 'mark' ? 1 : 0);
        for (const disk of [0, 1]) expect(Buffer.compare(state[disk]!, model[disk]!)).toBe(0);
        queue.clear();
        expect([queue.memoryBytes, queue.unsentBytes, queue.unsentRecordCount, spool.liveBytes]).toEqual([0, 0, 0, 0]);
      }),
      { numRuns: 60 },
    );
  });

  test('coverage claims every byte once, large ranges included', () => {
    const range = fc.tuple(fc.nat(400), fc.integer({ min: 1, max: 200 }));
    fc.assert(
      fc.property(fc.array(range, { maxLength: 30 }), fc.constantFrom(1, 700_000), (ranges, unit) => {
        const coverage = new Coverage();
        const model = new Set<number>();
        for (const [at, length] of ranges) {
          const fresh = new Set<number>();
          for (const piece of coverage.claim(0, at * unit, length * unit)) {
            for (let byte = piece.offsetBytes; byte < piece.offsetBytes + piece.lengthBytes; byte += unit)
              fresh.add(byte / unit);
          }
          const expected = Array.from({ length }, (_, index) => at + index).filter((byte) => !model.has(byte));
          expect([...fresh].sort((a, b) => a - b)).toEqual(expected);
          for (const byte of expected) model.add(byte);
        }
      }),
    );
  });
});

describe('dirty map', () => {
  test('equals a set of chunks', () => {
    const step = fc.tuple(fc.boolean(), fc.nat(20 * dirtyChunkBytes), fc.nat(5 * dirtyChunkBytes));
    fc.assert(
      fc.property(fc.array(step), (steps) => {
        const sizeBytes = 20 * dirtyChunkBytes - 777;
        const map = new DirtyMap(sizeBytes);
        const model = new Set<number>();
        for (const [mark, from, wanted] of steps) {
          const length = Math.max(0, Math.min(wanted, sizeBytes - from));
          if (mark) map.mark(from, length);
          else map.clearWithin(from, length);
          for (let chunk = 0; chunk < 20; chunk++) {
            const start = chunk * dirtyChunkBytes;
            const end = Math.min(sizeBytes, start + dirtyChunkBytes);
            if (mark && length > 0 && from < end && from + length > start) model.add(chunk);
            if (!mark && length > 0 && from <= start && from + length >= end) model.delete(chunk);
          }
          expect(Array.from({ length: 20 }, (_, chunk) => chunk).filter((chunk) => map.has(chunk))).toEqual(
            [...model].sort((a, b) => a - b),
          );
        }
        const taken: number[] = [];
        for (let run = map.take(3); run !== undefined; run = map.take(3))
          for (let index = 0; index < run.count; index++) taken.push(run.firstChunk + index);
        expect(taken).toEqual([...model].sort((a, b) => a - b));
        expect(map.isEmpty).toBe(true);
      }),
    );
  });

  test('reaches the far end of a large disk', () => {
    const map = new DirtyMap(2 ** 44);
    map.mark(2 ** 44 - 1, 1);
    map.mark(5 * 2 ** 32, 1);
    expect([map.take(9), map.take(9), map.take(9)]).toEqual([
      { firstChunk: 5 * 2 ** 16, count: 1 },
      { firstChunk: 2 ** 28 - 1, count: 1 },
      undefined,
    ]);
  });
});

test('a read loses what was captured since its issue', () => {
  const guard = new ReadGuard();
  const read = guard.begin(0, 100, 100);
  const other = guard.begin(1, 100, 100);
  guard.carve(0, 150, 10);
  guard.carve(0, 0, 110);
  expect(guard.end(read)).toEqual([
    { offsetBytes: 110, lengthBytes: 40 },
    { offsetBytes: 160, lengthBytes: 40 },
  ]);
  guard.carve(0, 0, 1000);
  expect(guard.end(other)).toEqual([{ offsetBytes: 100, lengthBytes: 100 }]);
});
