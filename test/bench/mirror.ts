/**
 * Capture where the mirror binds: three QEMU without a guest, each with one disk that fio writes to through QEMU's own
 * NBD export. Both mirrors are made by the same commands, so only the target of the mirror differs.
 */
import { BareQemu } from '../support/bare-qemu.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair } from '../support/pair.js';
import { makeSparseFile, runFio, startQemuNbd, type FioSide } from '../support/tools.js';
import { stepBack, steppedBackNote } from './another-machine.js';
import {
  captureGoals,
  captureLine,
  captureTables,
  contenders,
  halfRates,
  runRounds,
  withCost,
  type AgentCost,
  type CaptureBed,
  type Contender,
  type Judged,
  type Shape,
} from './capture-rounds.js';
import { notePairMemory, type BenchContext, type Benchmark } from './context.js';
import { noteMarks } from './marks.js';
import { MiB } from './statistics.js';
import { describeRetreat, Watch } from './watch.js';

const diskBytes = 512 * MiB;
const shapes: readonly Shape[] = [
  { name: '4 KiB qd32', blockBytes: 4096, queueDepth: 32 },
  { name: '64 KiB qd16', blockBytes: 64 * 1024, queueDepth: 16 },
  { name: '1 MiB qd4', blockBytes: MiB, queueDepth: 4 },
];

export const mirror: Benchmark = {
  name: 'mirror',
  async run(context) {
    await using lab = await Laboratory.open();
    const { bufferBytes, rounds, seconds } = context.plan.mirror;
    const pair = await startPair(lab, {
      // A file of its own for the first sync, as empty as the disk: what was read once through the page cache takes small
      // writes more slowly (large folios on ext4), and only one contender's disk would have been read.
      disks: [{ name: 'data', sizeBytes: diskBytes, file: makeSparseFile(lab.path('synced.raw'), diskBytes) }],
      sourceSettings: { buffers: { bufferBytes } },
    });
    await pair.waitProtecting();
    stepBack(pair.target);
    const bed = await startBed(lab, pair, context);
    const watch = new Watch(pair, 100);
    const full = await runRounds(bed, rounds);
    const half = await runRounds(bed, rounds, halfRates(full, shapes));
    await watch.stop();
    const retreat = await describeRetreat(pair, watch);
    await noteMarks(context, 'mirror of a QEMU without a guest', pair);
    notePairMemory(context, 'mirror', pair, bufferBytes);
    const judged: Judged = { where: 'mirror', bed, full, half, invalid: retreat };
    context.say(captureLine(judged));
    return {
      title: 'Mirror of a QEMU without a guest',
      goals: captureGoals(judged),
      tables: captureTables(judged),
      notes: [
        `Random writes of incompressible data over ${diskBytes / MiB} MiB, ${rounds} rounds, at most ${seconds} s for each ` +
          'shape, by fio through QEMU’s NBD export; all that was captured is durable before the next turn. Mirrors by ' +
          'blockdev-mirror, sync=none, write-blocking; qemu-nbd on a raw file, cache=writeback.',
        steppedBackNote,
        retreat === undefined ? 'No retreat was entered (API and events).' : `Does not count: ${retreat}.`,
      ],
    };
  },
};

async function startBed(lab: Laboratory, pair: Pair, { plan }: BenchContext): Promise<CaptureBed> {
  const qemus = {} as Record<Contender, BareQemu>;
  for (const contender of contenders) {
    const file = makeSparseFile(lab.path(`${contender}.raw`), diskBytes);
    qemus[contender] = await BareQemu.start(lab.processes, lab.directory, `q-${contender}`, file);
  }
  const socket = lab.path('qemu-nbd.sock');
  const file = makeSparseFile(lab.path('qemu-nbd-copy.raw'), diskBytes);
  await startQemuNbd(lab.processes, { name: 'qemu-nbd', file, socket });
  await qemus['qemu-nbd'].mirror(socket, '');
  const uri = new URL(await pair.exportUri('data'));
  await qemus.tidemark.mirror(uri.searchParams.get('socket')!, decodeURIComponent(uri.pathname.slice(1)));
  return {
    shapes,
    costNames: shapes.map(({ name }) => name),
    write: async (contender, round, rates) => {
      const sides: FioSide[] = [];
      const costs: AgentCost[] = [];
      for (const [index, { blockBytes, queueDepth }] of shapes.entries()) {
        const write = async (): Promise<FioSide[]> => {
          const done = await runFio(lab.processes, {
            ...{ target: qemus[contender].guestUri, operation: 'randwrite', blockBytes, queueDepth },
            sizeBytes: diskBytes,
            totalBytes: plan.mirror.totalBytes,
            runtimeSecondsMax: plan.mirror.seconds,
            randomSeed: round + 1,
            ...(rates === undefined ? {} : { rateBytesPerSecond: rates[index]! }),
          });
          return [done.write];
        };
        if (contender === 'tidemark') {
          const done = await withCost(pair, write);
          sides.push(...done.sides);
          costs.push(done.cost);
        } else sides.push(...(await write()));
      }
      return { sides, costs };
    },
  };
}
