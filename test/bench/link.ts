/**
 * Links that are narrow: RPO at 80 % of the capacity; a hot set that fits the link once folded; and unique churn of 3.3
 * times the link, where the writer must not notice and the first checkpoint after the load must come soon.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair } from '../support/pair.js';
import { makeSparseFile, runFio, type FioSide } from '../support/tools.js';
import { waitFor } from '../support/wait.js';
import { notePairMemory, type BenchContext, type Benchmark } from './context.js';
import { writeRandom } from './dd.js';
import type { Goal, Section, Table } from './report.js';
import { MB, MiB, number, percentile, ratios, series, spread } from './statistics.js';
import { takeSample, Watch, type Sample } from './watch.js';

const bufferBytes = 64 * MiB;
const spoolBytes = 128 * MiB;
/** Folding needs room for the hot set twice, as it came and folded. */
const hotSpoolBytes = 512 * MiB;
/** Share of the capacity that is offered, and churn over it. */
const steadyShare = 0.8;
const churnFactor = 3.3;
const hotFactor = 4;

interface Part {
  readonly goals: readonly Goal[];
  readonly table: Table;
  readonly notes: readonly string[];
}

export const link: Benchmark = {
  name: 'link',
  async run(context) {
    const parts = [await steady(context), await hotSet(context), await churn(context)];
    return {
      title: 'Narrow links',
      goals: parts.flatMap(({ goals }) => goals),
      tables: parts.map(({ table }) => table),
      notes: [
        `The link is a TCP proxy with a byte rate in each direction, in its own process. Buffer ${bufferBytes / MiB} MiB, ` +
          `spool ${spoolBytes / MiB} MiB, ${hotSpoolBytes / MiB} MiB with the hot set.`,
        ...parts.flatMap(({ notes }) => notes),
      ],
    } satisfies Section;
  },
};

interface LinkedOptions {
  readonly diskBytes: number;
  readonly intervalSeconds: number;
  readonly spoolBytes?: number;
  readonly filled?: boolean;
}

async function linkedPair(lab: Laboratory, options: LinkedOptions): Promise<Pair> {
  const { diskBytes, intervalSeconds, filled = false } = options;
  const file = lab.path('disk.raw');
  if (filled) writeRandom(file, diskBytes);
  else makeSparseFile(file, diskBytes);
  const pair = await startPair(lab, {
    disks: [{ name: 'data', sizeBytes: diskBytes, file }],
    checkpointIntervalSeconds: intervalSeconds,
    linkProxy: true,
    sourceSettings: { buffers: { bufferBytes, spoolBytes: options.spoolBytes ?? spoolBytes } },
  });
  await pair.waitProtecting();
  return pair;
}

async function steady(context: BenchContext): Promise<Part> {
  const { capacityBytesPerSecond, intervalSeconds, steadySeconds } = context.plan.link;
  await using lab = await Laboratory.open();
  const diskBytes = 1024 * MiB;
  const pair = await linkedPair(lab, { diskBytes, intervalSeconds });
  pair.link!.shape(capacityBytesPerSecond);
  const watch = new Watch(pair, 50);
  const { write } = await runFio(lab.processes, {
    target: await pair.exportUri('data'),
    operation: 'randwrite',
    blockBytes: 16 * 1024,
    queueDepth: 8,
    sizeBytes: diskBytes,
    rateBytesPerSecond: capacityBytesPerSecond * steadyShare,
    runtimeSeconds: steadySeconds,
  });
  const samples = await watch.stop();
  notePairMemory(context, 'link at 80 %', pair, bufferBytes);
  await pair.waitDrained();
  await pair.stop();
  const rpo = samples.map((sample) => sample.rpoSeconds ?? Number.POSITIVE_INFINITY);
  const p99 = percentile(rpo, 0.99);
  return {
    goals: [
      {
        name: 'RPO p99 at 80 % of the link',
        measured: series([p99]),
        bound: intervalSeconds + 1,
        direction: 'at most',
        unit: 's',
        hint: `Worst stage was ${watch.worstStage}; look at block linger, bytes in flight and acknowledgement delay.`,
      },
    ],
    table: {
      title: `RPO at 80 % of ${number(capacityBytesPerSecond / MB)} MB/s`,
      head: ['written MB/s', 'interval s', 'RPO p50 s', 'p99 s', 'max s', 'worst stage'],
      rows: [
        [
          number(write.bytesPerSecond / MB),
          String(intervalSeconds),
          number(percentile(rpo, 0.5)),
          number(p99),
          number(Math.max(...rpo)),
          watch.worstStage,
        ],
      ],
    },
    notes: [],
  };
}

async function hotSet(context: BenchContext): Promise<Part> {
  const { hotLinkBytesPerSecond, hotSetBytes, hotSeconds, intervalSeconds } = context.plan.link;
  await using lab = await Laboratory.open();
  const diskBytes = 1024 * MiB;
  const pair = await linkedPair(lab, { diskBytes, intervalSeconds, spoolBytes: hotSpoolBytes });
  pair.link!.shape(hotLinkBytesPerSecond);
  const watch = new Watch(pair, 100);
  const { write } = await runFio(lab.processes, {
    target: await pair.exportUri('data'),
    operation: 'randwrite',
    blockBytes: 16 * 1024,
    queueDepth: 8,
    sizeBytes: hotSetBytes,
    rateBytesPerSecond: hotLinkBytesPerSecond * hotFactor,
    runtimeSeconds: hotSeconds,
  });
  const samples = await watch.stop();
  notePairMemory(context, 'hot set', pair, bufferBytes);
  pair.link!.shape(null);
  await settle(pair);
  await pair.stop();
  const gaps = checkpointGaps(samples);
  const widest = Math.max(...samples.map((sample) => sample.effectiveIntervalSeconds));
  return {
    goals: [
      {
        name: 'longest gap of checkpoints, folded hot set',
        measured: series([Math.max(...gaps)]),
        bound: 30 + intervalSeconds,
        direction: 'at most',
        unit: 's',
        invalid: watch.worstStage === 'bitmap' ? 'it fell back to the bitmap' : undefined,
        hint: 'The hot set is sent once in an interval; the interval widens by the backlog over the link rate.',
      },
    ],
    table: {
      title: `Hot set of ${hotSetBytes / MiB} MiB, written at ${hotFactor} × a link of ${number(hotLinkBytesPerSecond / MB)} MB/s`,
      head: ['written MB/s', 'checkpoints', 'gap s', 'widest interval s', 'worst stage'],
      rows: [
        [
          number(write.bytesPerSecond / MB),
          String(gaps.length - 1),
          spread(series(gaps)),
          number(widest),
          watch.worstStage,
        ],
      ],
    },
    notes: [
      'A gap is the time between two new durable checkpoints seen at the target, the running one at the end included.',
    ],
  };
}

/** Seconds between new checkpoints, the open gaps at both ends included. */
function checkpointGaps(samples: readonly Sample[]): number[] {
  const gaps: number[] = [];
  let since = samples[0]!;
  for (const sample of samples) {
    if (sample.newestCheckpoint === since.newestCheckpoint) continue;
    gaps.push((sample.atMs - since.atMs) / 1000);
    since = sample;
  }
  gaps.push((samples.at(-1)!.atMs - since.atMs) / 1000);
  return gaps;
}

interface ChurnRound {
  readonly free: FioSide;
  readonly narrow: FioSide;
  readonly dirtyBytes: number;
  readonly firstCheckpointSeconds: number;
  readonly worstStage: string;
}

async function churn(context: BenchContext): Promise<Part> {
  const { churnLinkBytesPerSecond, churnRounds, churnSeconds, intervalSeconds } = context.plan.link;
  await using lab = await Laboratory.open();
  const rate = churnLinkBytesPerSecond * churnFactor;
  const diskBytes = Math.ceil((rate * churnSeconds * 1.1) / MiB) * MiB;
  const pair = await linkedPair(lab, { diskBytes, intervalSeconds, filled: true });
  const rounds: ChurnRound[] = [];
  for (let round = 0; round < churnRounds; round++) {
    rounds.push(await churnRound(context, lab, pair, { diskBytes, rate }));
    context.say(`churn: first checkpoint ${number(rounds.at(-1)!.firstCheckpointSeconds)} s after the load`);
  }
  notePairMemory(context, 'unique churn', pair, bufferBytes);
  await pair.stop();
  return {
    goals: [
      {
        name: 'writer p99, churn 3.3 × link ÷ unlimited',
        measured: ratios(
          rounds.map(({ narrow }) => narrow.p99Us),
          rounds.map(({ free }) => free.p99Us),
        ),
        bound: 1.25,
        direction: 'at most',
        hint: 'Spooling, folding or marking the bitmap takes turns away from acknowledgements.',
      },
      {
        name: 'first checkpoint ÷ (dirty ÷ link rate)',
        measured: series(
          rounds.map((each) => each.firstCheckpointSeconds / (each.dirtyBytes / churnLinkBytesPerSecond)),
        ),
        bound: 2,
        direction: 'at most',
        hint: 'The sync does not fill the link: look at read-ahead, bytes in flight and compression.',
      },
    ],
    table: {
      title: `Unique churn at ${churnFactor} × a link of ${number(churnLinkBytesPerSecond / MB)} MB/s for ${churnSeconds} s`,
      head: ['round', 'p99 free µs', 'p99 narrow µs', 'dirty MB', 'first checkpoint s', 'worst stage'],
      rows: rounds.map((each, index) => [
        String(index + 1),
        number(each.free.p99Us),
        number(each.narrow.p99Us),
        number(each.dirtyBytes / MB),
        number(each.firstCheckpointSeconds),
        each.worstStage,
      ]),
    },
    notes: [
      'Dirty bytes are what buffer, spool and bitmap held when the load stopped. The syncs read a file of random bytes, ' +
        'which stands for the guest’s disk.',
    ],
  };
}

async function churnRound(
  { plan }: BenchContext,
  lab: Laboratory,
  pair: Pair,
  { diskBytes, rate }: { diskBytes: number; rate: number },
): Promise<ChurnRound> {
  const { churnLinkBytesPerSecond, churnSeconds } = plan.link;
  const target = await pair.exportUri('data');
  const load = async (): Promise<FioSide> => {
    const shape = { target, operation: 'write', blockBytes: 64 * 1024, queueDepth: 4, sizeBytes: diskBytes } as const;
    const totalBytes = Math.floor((rate * churnSeconds) / (64 * 1024)) * 64 * 1024;
    return (await runFio(lab.processes, { ...shape, totalBytes, rateBytesPerSecond: rate })).write;
  };
  pair.link!.shape(null);
  const free = await load();
  await pair.waitDrained();
  await settle(pair);

  pair.link!.shape(churnLinkBytesPerSecond);
  const watch = new Watch(pair, 100);
  const narrow = await load();
  const stopped = await takeSample(pair);
  const stoppedAtMs = Date.now();
  await watch.stop();
  await waitFor(
    'a checkpoint of after the load',
    async () => {
      const { newestCheckpoint } = await pair.targetStatus();
      return newestCheckpoint !== null && newestCheckpoint.sourceTimeMs >= stoppedAtMs;
    },
    { timeoutMs: ((stopped.pendingBytes / churnLinkBytesPerSecond) * 5 + 60) * 1000, everyMs: 50 },
  );
  const firstCheckpointSeconds = (Date.now() - stoppedAtMs) / 1000;
  pair.link!.shape(null);
  await settle(pair);
  return { free, narrow, dirtyBytes: stopped.pendingBytes, firstCheckpointSeconds, worstStage: watch.worstStage };
}

/** Back in the first stage, everything durable. */
async function settle(pair: Pair): Promise<void> {
  await waitFor(
    'the source back in its buffer',
    async () => {
      const { stage, pendingBytes } = await takeSample(pair);
      return stage === 'buffer' && pendingBytes < MiB;
    },
    { timeoutMs: 180_000, everyMs: 100 },
  );
  await sleep(200);
}
