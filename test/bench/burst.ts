/**
 * Burst: how fast writes are acknowledged while everything fits the buffer, replication and journal on. The same fio
 * job runs against qemu-nbd (raw file, writeback) and nbdkit's memory, in turn, in every round.
 */
import { Laboratory } from '../support/laboratory.js';
import { startPair } from '../support/pair.js';
import {
  makeSparseFile,
  runFio,
  startNbdkitMemory,
  startQemuNbd,
  type FioJob,
  type FioSide,
} from '../support/tools.js';
import { notePairMemory, type BenchContext, type Benchmark } from './context.js';
import type { Goal, Section, Table } from './report.js';
import { MiB, number, ratios, series, spread } from './statistics.js';
import { describeRetreat, Watch } from './watch.js';

const diskBytes = 1024 * MiB;
const contenders = ['tidemark', 'qemu-nbd', 'nbdkit'] as const;
type Contender = (typeof contenders)[number];

interface Shape {
  readonly name: string;
  readonly blockBytes: number;
  readonly queueDepth: number;
  readonly totalBytes: number;
}

export const burst: Benchmark = {
  name: 'burst',
  async run(context) {
    const { plan, say } = context;
    await using lab = await Laboratory.open();
    const { bufferBytes, rounds } = plan.burst;
    const pair = await startPair(lab, {
      disks: [{ name: 'data', sizeBytes: diskBytes, file: makeSparseFile(lab.path('disk.raw'), diskBytes) }],
      sourceSettings: { buffers: { bufferBytes } },
    });
    await pair.waitProtecting();
    const rivalFile = makeSparseFile(lab.path('rival.raw'), diskBytes);
    const qemuNbd = await startQemuNbd(lab.processes, {
      name: 'qemu-nbd',
      file: rivalFile,
      socket: lab.path('qemu-nbd.sock'),
    });
    const nbdkit = await startNbdkitMemory(lab.processes, {
      name: 'nbdkit',
      sizeBytes: diskBytes,
      socket: lab.path('nbdkit.sock'),
    });
    const uris: Record<Contender, string> = {
      tidemark: await pair.exportUri('data'),
      'qemu-nbd': qemuNbd.uri,
      nbdkit: nbdkit.uri,
    };

    const watch = new Watch(pair, 100);
    const measured = new Map<string, Record<Contender, FioSide[]>>();
    for (const shape of shapes(context)) {
      const sides: Record<Contender, FioSide[]> = { tidemark: [], 'qemu-nbd': [], nbdkit: [] };
      measured.set(shape.name, sides);
      // Round 0 warms files, page cache and compilers, and is not counted.
      for (let round = 0; round <= rounds; round++) {
        for (let turn = 0; turn < contenders.length; turn++) {
          const contender = contenders[(round + turn) % contenders.length]!;
          const { write } = await runFio(lab.processes, job(shape, uris[contender], round));
          if (contender === 'tidemark') await pair.waitDrained();
          if (round > 0) sides[contender].push(write);
        }
      }
      say(`${shape.name}: ${contenders.map((each) => `${each} ${number(rate(shape, sides[each]))}`).join(', ')}`);
    }
    await watch.stop();
    notePairMemory(context, 'burst', pair, bufferBytes);
    const retreat = await describeRetreat(pair, watch);
    await pair.stop();
    return section(context, measured, retreat);
  },
};

function shapes({ plan: { burst: plan } }: BenchContext): Shape[] {
  return [
    { name: '4 KiB qd32', blockBytes: 4096, queueDepth: 32, totalBytes: plan.smallTotalBytes },
    { name: '64 KiB qd16', blockBytes: 64 * 1024, queueDepth: 16, totalBytes: plan.largeTotalBytes },
    { name: '1 MiB qd4', blockBytes: MiB, queueDepth: 4, totalBytes: plan.largeTotalBytes },
    { name: '4 KiB qd1', blockBytes: 4096, queueDepth: 1, totalBytes: plan.latencyTotalBytes },
  ];
}

function job({ blockBytes, queueDepth, totalBytes }: Shape, target: string, round: number): FioJob {
  return {
    target,
    operation: 'randwrite',
    blockBytes,
    queueDepth,
    sizeBytes: diskBytes,
    totalBytes,
    randomSeed: round + 1,
  };
}

function rate({ blockBytes }: Shape, sides: readonly FioSide[]): number {
  return series(sides.map((side) => (blockBytes === 4096 ? side.operationsPerSecond : side.bytesPerSecond / 1e6)))
    .median;
}

function section(
  { plan }: BenchContext,
  measured: ReadonlyMap<string, Record<Contender, FioSide[]>>,
  retreat: string | undefined,
): Section {
  const goals: Goal[] = [];
  const throughput: string[][] = [];
  const latency: string[][] = [];
  for (const [name, sides] of measured) {
    if (name.endsWith('qd1')) {
      const pick = (side: FioSide): number => side.meanUs;
      goals.push({
        name: `burst ${name} latency ÷ qemu-nbd`,
        measured: ratios(sides.tidemark.map(pick), sides['qemu-nbd'].map(pick)),
        bound: 1.25,
        direction: 'at most',
        invalid: retreat,
        hint: 'One request at a time: every turn of the event loop between read and reply counts.',
      });
      for (const each of contenders)
        latency.push([
          each,
          ...(['meanUs', 'p50Us', 'p99Us'] as const).map((key) => spread(series(sides[each].map((side) => side[key])))),
        ]);
      continue;
    }
    const operations = name.startsWith('4 KiB');
    const pick = (side: FioSide): number => (operations ? side.operationsPerSecond / 1000 : side.bytesPerSecond / 1e6);
    const of = (each: Contender): number[] => sides[each].map(pick);
    goals.push({
      name: `burst ${name} rate ÷ qemu-nbd`,
      measured: ratios(of('tidemark'), of('qemu-nbd')),
      bound: 0.8,
      direction: 'at least',
      invalid: retreat,
      hint: 'Profile the source: TIDEMARK_AGENT=bundle TIDEMARK_AGENT_NODE_ARGS=--cpu-prof make bench ARGS="--only burst".',
    });
    throughput.push([
      `${name}, ${operations ? 'k/s' : 'MB/s'}`,
      ...contenders.map((each) => spread(series(of(each)))),
      number(ratios(of('tidemark'), of('nbdkit')).median),
    ]);
  }
  const tables: Table[] = [
    { title: 'Rate of acknowledged writes', head: ['shape', ...contenders, '÷ nbdkit'], rows: throughput },
    { title: 'Latency, 4 KiB, one at a time, µs', head: ['server', 'mean', 'p50', 'p99'], rows: latency },
  ];
  return {
    title: 'Burst',
    goals,
    tables,
    notes: [
      `Random writes of incompressible data over 1 GiB, ${plan.burst.rounds} rounds; a round writes at most half of the ` +
        `${plan.burst.bufferBytes / MiB} MiB buffer, and the journal is drained before the next contender's turn.`,
      retreat === undefined ? 'No retreat was entered (API and events).' : `Does not count: ${retreat}.`,
    ],
  };
}
