/**
 * Sustained: how much becomes durable at the target a second, for at least a minute and four times buffer and spool,
 * beside what the same disk takes from dd; what it costs in CPU by process, thread and stage; RPO at the end.
 */
import { mkdirSync } from 'node:fs';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair } from '../support/pair.js';
import { readUsage, type ProcessUsage } from '../support/process-usage.js';
import { makeSparseFile, type FioJob } from '../support/tools.js';
import { notePairMemory, type BenchContext, type Benchmark } from './context.js';
import { measureDisk, type DiskRates } from './dd.js';
import { feed, type FeedResult } from './feeder.js';
import { processorSeconds } from './machine.js';
import { noteMarks } from './marks.js';
import { readStages, type StageSeconds } from './profile-stages.js';
import type { Goal, Section, Table } from './report.js';
import { GiB, MB, MiB, number, series, spread } from './statistics.js';
import { retreatEvents, takeSample } from './watch.js';

const diskBytes = 4 * GiB;
const kinds = [
  { name: 'incompressible', compressiblePercent: 0 },
  { name: '2:1', compressiblePercent: 50 },
] as const;

interface Usage {
  readonly name: string;
  readonly usage: ProcessUsage;
}

interface Run {
  readonly kind: string;
  readonly feed: FeedResult;
  readonly before: readonly Usage[];
  readonly after: readonly Usage[];
  /** Share of all cores' time that was used. */
  readonly machineBusy: number;
  readonly rpoSeconds: number | null;
  readonly finalStage: string;
  readonly retreats: readonly string[];
  /** Bytes that the target wrote for each byte captured, by write calls to files. */
  readonly writeAmplification: number;
}

export const sustained: Benchmark = {
  name: 'sustained',
  async run(context) {
    const { plan, say } = context;
    const disk: DiskRates = { fdatasync: [], direct: [] };
    const runs: Run[] = [];
    for (const kind of kinds) {
      await using lab = await Laboratory.open();
      for (let round = 0; round < plan.sustained.ddRounds; round++)
        await measureDisk(lab, plan.sustained.ddBytes, disk);
      const run = await sustain(context, lab, kind);
      runs.push(run);
      say(
        `${kind.name}: ${number(run.feed.durableBytes / run.feed.seconds / MB)} MB/s durable, ` +
          `dd ${spread(series(disk.fdatasync.map((rate) => rate / MB)))} MB/s`,
      );
    }
    return section(context, disk, runs, await profile(context));
  },
};

async function sustain(context: BenchContext, lab: Laboratory, kind: (typeof kinds)[number]): Promise<Run> {
  const { seconds, bufferBytes, spoolBytes } = context.plan.sustained;
  const pair = await sustainedPair(context, lab);
  const before: Usage[] = [];
  const after: Usage[] = [];
  let machine = processorSeconds();
  let machineBusy = 0;
  const result = await feed({
    lab,
    pair,
    job: feedJob(await pair.exportUri('data'), kind.compressiblePercent),
    bufferBytes,
    seconds,
    bytesMin: 4 * (bufferBytes + spoolBytes),
    onPhase: (phase, fioPid) => {
      const usages = phase === 'begin' ? before : after;
      usages.push(
        { name: 'source', usage: readUsage(pair.source.pid) },
        { name: 'target', usage: readUsage(pair.target.pid) },
        { name: 'fio', usage: readUsage(fioPid) },
      );
      const now = processorSeconds();
      machineBusy = 1 - (now.idle - machine.idle) / Math.max(1e-9, now.total - machine.total);
      machine = now;
    },
  });
  const end = await takeSample(pair);
  await noteMarks(context, `sustained, ${kind.name}`, pair);
  notePairMemory(context, `sustained, ${kind.name}`, pair, bufferBytes);
  const retreats = [...new Set(await retreatEvents(pair))];
  await pair.waitDrained({ timeoutMs: 120_000 });
  await pair.stop();
  const written = after[1]!.usage.diskWriteBytes - before[1]!.usage.diskWriteBytes;
  return {
    kind: kind.name,
    feed: result,
    before,
    after,
    machineBusy,
    rpoSeconds: end.rpoSeconds,
    finalStage: end.stage,
    retreats,
    writeAmplification: written / result.durableBytes,
  };
}

async function sustainedPair({ plan }: BenchContext, lab: Laboratory): Promise<Pair> {
  const { bufferBytes, spoolBytes } = plan.sustained;
  const pair = await startPair(lab, {
    disks: [{ name: 'data', sizeBytes: diskBytes, file: makeSparseFile(lab.path('disk.raw'), diskBytes) }],
    checkpointIntervalSeconds: 1,
    sourceSettings: { buffers: { bufferBytes, spoolBytes } },
  });
  await pair.waitProtecting();
  return pair;
}

function feedJob(target: string, compressiblePercent: number): FioJob {
  return {
    target,
    operation: 'randwrite',
    blockBytes: 64 * 1024,
    queueDepth: 16,
    sizeBytes: diskBytes,
    compressiblePercent,
  };
}

/** A shorter run of the bundle under V8's profiler, for the share of each stage; its rate is not shown anywhere. */
async function profile(context: BenchContext): Promise<Map<string, StageSeconds[]>> {
  await using lab = await Laboratory.open();
  const directory = lab.path('profiles', 'x').replace(/\/x$/, '');
  mkdirSync(directory, { recursive: true });
  await using profiled = await Laboratory.open({
    bundleNodeArgs: ['--cpu-prof', `--cpu-prof-dir=${directory}`, '--cpu-prof-interval=1000'],
  });
  const { profileSeconds, bufferBytes } = context.plan.sustained;
  const pair = await sustainedPair(context, profiled);
  const job = feedJob(await pair.exportUri('data'), 0);
  const agents = await Promise.all(
    Object.entries({ source: pair.source, target: pair.target }).map(async ([name, agent]) => {
      const { startedMs } = await agent.client.agent();
      return { name, pid: agent.pid, startedMs };
    }),
  );
  const beginMs = Date.now();
  await feed({ lab: profiled, pair, job, bufferBytes, seconds: profileSeconds, bytesMin: 0, onPhase: () => {} });
  await pair.waitDrained();
  await pair.stop();
  return new Map(
    agents.map(({ name, pid, startedMs }) => [name, readStages(directory, pid, (beginMs - startedMs) / 1000)]),
  );
}

function section(
  { plan }: BenchContext,
  disk: DiskRates,
  runs: readonly Run[],
  stages: ReadonlyMap<string, readonly StageSeconds[]>,
): Section {
  const diskRate = series(disk.fdatasync);
  const goals: Goal[] = runs.flatMap((run): Goal[] => {
    const rate = run.feed.durableBytes / run.feed.seconds;
    const invalid =
      run.feed.worstStage !== 'buffer'
        ? `it was in ${run.feed.worstStage} and ended in ${run.finalStage}`
        : run.retreats.length > 0
          ? `events ${run.retreats.join(', ')}`
          : undefined;
    return [
      {
        name: `sustained ${run.kind} ÷ dd`,
        measured: { median: rate / diskRate.median, min: rate / diskRate.max, max: rate / diskRate.min, count: 3 },
        bound: 0.6,
        direction: 'at least',
        invalid,
        hint: bindingHint(run),
      },
      {
        name: `ingest written ÷ captured, ${run.kind}`,
        measured: series([run.writeAmplification]),
        bound: 1.1,
        direction: 'at most',
        hint: 'Compare with segment and manifest sizes: small fdatasyncs rewrite the last page.',
      },
    ];
  });
  return {
    title: 'Sustained',
    goals,
    tables: [rates(disk, runs), cpu(runs), threads(runs), ...stageTables(stages)],
    notes: notes(plan),
  };
}

function notes(plan: BenchContext['plan']): string[] {
  const { bufferBytes, spoolBytes, seconds } = plan.sustained;
  return [
    `64 KiB random writes, queue depth 16, over 4 GiB, at least ${seconds} s and 4 × (${bufferBytes / MiB} MiB buffer + ` +
      `${spoolBytes / MiB} MiB spool). The writer is stopped while the buffer is over a fifth full, so that the rate is what ` +
      'the pipeline sustains; fio, both agents and the journal share this machine.',
    'dd writes incompressible data with bs=1M conv=fdatasync; the goal compares with the run through the page cache.',
  ];
}

function rates(disk: DiskRates, runs: readonly Run[]): Table {
  const inMB = (values: readonly number[]): string => spread(series(values.map((value) => value / MB)));
  const row = (name: string, cell: (run: Run) => string): string[] => [name, ...runs.map(cell)];
  return {
    title: 'Bytes durable at the target',
    head: ['', ...runs.map(({ kind }) => kind)],
    rows: [
      row('durable MB/s', (run) => number(run.feed.durableBytes / run.feed.seconds / MB)),
      row('dd conv=fdatasync MB/s', () => inMB(disk.fdatasync)),
      row('dd oflag=direct MB/s', () => inMB(disk.direct)),
      row('seconds', (run) => number(run.feed.seconds)),
      row('durable GiB', (run) => number(run.feed.durableBytes / GiB)),
      row('RPO at the end s', (run) => (run.rpoSeconds === null ? 'none' : number(run.rpoSeconds))),
      row('stage at the end', (run) => run.finalStage),
      row('writer stopped', (run) => `${number(run.feed.pausedShare * 100)} %`),
    ],
  };
}

function cpu(runs: readonly Run[]): Table {
  return {
    title: 'CPU seconds for each GiB made durable',
    head: ['data', 'source', 'target', 'fio', 'all cores busy'],
    rows: runs.map((run) => [
      run.kind,
      ...run.after.map(({ usage }, index) =>
        number((usage.cpuSeconds - run.before[index]!.usage.cpuSeconds) / (run.feed.durableBytes / GiB)),
      ),
      `${number(run.machineBusy * 100)} %`,
    ]),
  };
}

function threads(runs: readonly Run[]): Table {
  return {
    title: 'Of that by thread, and how busy each is',
    head: ['data', 'process', 'thread', 's for each GiB', 'busy'],
    rows: runs.flatMap((run) =>
      threadSeconds(run).map(({ process, thread, seconds }) => [
        run.kind,
        process,
        thread,
        number(seconds / (run.feed.durableBytes / GiB)),
        `${number((seconds / run.feed.seconds) * 100)} %`,
      ]),
    ),
  };
}

/** Threads of the agents that took at least 2 % of a core. Threads of one name count together. */
function threadSeconds(run: Run): { process: string; thread: string; seconds: number }[] {
  return run.after.slice(0, 2).flatMap(({ name, usage }, index) =>
    Object.entries(usage.threadCpuSeconds)
      .map(([thread, seconds]) => ({
        process: name,
        thread,
        seconds: seconds - (run.before[index]!.usage.threadCpuSeconds[thread] ?? 0),
      }))
      .filter(({ seconds }) => seconds > run.feed.seconds * 0.02)
      .sort((a, b) => b.seconds - a.seconds),
  );
}

function bindingHint(run: Run): string {
  const busiest = threadSeconds(run).sort((a, b) => b.seconds - a.seconds)[0];
  const machine = `all cores together were ${number(run.machineBusy * 100)} % busy`;
  if (busiest === undefined) return `No agent thread was busy; ${machine}: the disk or the writer binds.`;
  const share = number((busiest.seconds / run.feed.seconds) * 100);
  return `Busiest: thread ${busiest.thread} of the ${busiest.process} at ${share} % of a core; ${machine}.`;
}

function stageTables(stages: ReadonlyMap<string, readonly StageSeconds[]>): Table[] {
  return [...stages].map(([name, list]) => {
    const total = list.reduce((sum, { seconds }) => sum + seconds, 0);
    return {
      title: `Main thread of the ${name} by stage (V8 profile of a run of its own)`,
      head: ['stage', 'share'],
      rows: list
        .filter(({ seconds }) => seconds / total >= 0.01)
        .map(({ stage, seconds }) => [stage, `${number((seconds / total) * 100)} %`]),
    };
  });
}
