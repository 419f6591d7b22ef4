/**
 * What promotion and compaction write, apart from ingest: two pairs take the same load one after the other, one promotes
 * (history of a minute), one compacts (thinning after ten seconds). What the disk itself wrote meanwhile is counted.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Laboratory } from '../support/laboratory.js';
import { startPair } from '../support/pair.js';
import { makeSparseFile, runFio } from '../support/tools.js';
import { notePairMemory, type BenchContext, type Benchmark } from './context.js';
import { deviceWriteBytes } from './device.js';
import type { Goal, Section } from './report.js';
import { MiB, number, series } from './statistics.js';

const diskBytes = 256 * MiB;
const bufferBytes = 64 * MiB;
const windowSeconds = 60;
const cases = [
  { name: 'promotion', history: { windowSeconds, tiers: [] }, bound: 1.25 },
  {
    name: 'compaction',
    history: { windowSeconds: 3600, tiers: [{ olderThanSeconds: 10, everySeconds: 30 }] },
    bound: 1,
  },
] as const;

interface Result {
  readonly name: string;
  readonly bound: number;
  readonly ingestBytes: number;
  readonly journalBytesPeak: number;
  readonly journalBytesEnd: number;
  readonly extraBytes: number;
}

export const amplification: Benchmark = {
  name: 'amplification',
  async run(context) {
    const results: Result[] = [];
    for (const each of cases) results.push(await measure(context, each));
    return section(context, results);
  },
};

async function measure(context: BenchContext, { name, bound, history }: (typeof cases)[number]): Promise<Result> {
  const { loadBytes, loadSeconds, quietSeconds } = context.plan.amplification;
  await using lab = await Laboratory.open();
  const file = makeSparseFile(lab.path('disk.raw'), diskBytes);
  const pair = await startPair(lab, {
    disks: [{ name: 'data', sizeBytes: diskBytes, file }],
    checkpointIntervalSeconds: 1,
    history: { ...history, tiers: [...history.tiers] },
    sourceSettings: { buffers: { bufferBytes } },
  });
  await pair.waitProtecting();
  const journalBytes = async (): Promise<number> => (await pair.targetStatus()).journal?.bytes ?? 0;
  const begin = deviceWriteBytes(file);
  await runFio(lab.processes, {
    target: await pair.exportUri('data'),
    operation: 'randwrite',
    blockBytes: 16 * 1024,
    queueDepth: 4,
    sizeBytes: diskBytes,
    totalBytes: loadBytes,
    rateBytesPerSecond: loadBytes / loadSeconds,
  });
  await pair.waitDrained();
  let journalBytesPeak = await journalBytes();
  // Everything of the load leaves the window (promotion), or the first tier (compaction).
  const endMs = performance.now() + quietSeconds * 1000;
  while (performance.now() < endMs) {
    journalBytesPeak = Math.max(journalBytesPeak, await journalBytes());
    await sleep(500);
  }
  const extraBytes = Math.max(0, deviceWriteBytes(file) - begin - loadBytes);
  const journalBytesEnd = await journalBytes();
  notePairMemory(context, name, pair, bufferBytes);
  await pair.stop();
  return { name, bound, ingestBytes: loadBytes, journalBytesPeak, journalBytesEnd, extraBytes };
}

function section({ plan }: BenchContext, results: readonly Result[]): Section {
  return {
    title: 'Promotion and compaction',
    goals: results.map((result): Goal => ({
      name: `${result.name}, bytes written ÷ taken in`,
      measured: series([result.extraBytes / Math.max(1, result.ingestBytes)]),
      bound: result.bound,
      direction: 'at most',
      invalid: plan.amplification.quietSeconds < windowSeconds ? 'the history window did not pass' : undefined,
      hint: 'Blocks written again and again: larger batches, or fewer rounds.',
    })),
    tables: [
      {
        title: 'Bytes, MiB',
        head: ['work', 'taken in', 'journal peak', 'journal at end', 'written besides ingest'],
        rows: results.map((result) => [
          result.name,
          ...[result.ingestBytes, result.journalBytesPeak, result.journalBytesEnd, result.extraBytes].map((bytes) =>
            number(bytes / MiB),
          ),
        ]),
      },
    ],
    notes: [
      `Random overwrites of ${diskBytes / MiB} MiB in 16 KiB pieces, ${plan.amplification.loadBytes / MiB} MiB in ` +
        `${plan.amplification.loadSeconds} s, a checkpoint a second. Promotion: a window of ${windowSeconds} s. ` +
        'Compaction: after 10 s one checkpoint in 30 s is kept. Counted by the block device, so whatever else the machine ' +
        'writes counts, too. Bounds are ours: see ARCHITECTURE.md.',
    ],
  };
}
