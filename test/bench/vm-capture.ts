/**
 * Capture in a real guest: fio and pgbench on disks without a mirror, with a mirror to qemu-nbd, and protected by the
 * agent. The guest is emulated where there is no KVM, and then binds more than any mirror; `mirror` has none.
 */
import { join } from 'node:path';
import { Laboratory } from '../support/laboratory.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { parseFio, type FioSide } from '../support/tools.js';
import { whyNoVms } from '../support/vm-host.js';
import { steppedBackNote } from './another-machine.js';
import { CaptureGuest, loadBytes, vm } from './capture-guest.js';
import {
  captureGoals,
  captureLine,
  captureTables,
  contenders,
  halfRates,
  runRounds,
  withCost,
  type CaptureBed,
  type Contender,
  type CostPair,
  type Judged,
  type Shape,
} from './capture-rounds.js';
import { notePairMemory, type Benchmark } from './context.js';
import { noteMarks } from './marks.js';
import { startVmPair } from './vm-pair.js';
import type { Table } from './report.js';
import { MiB, ratios, series, spread } from './statistics.js';
import { describeRetreat, Watch } from './watch.js';

const shapes: readonly Shape[] = [
  { name: '4 KiB qd16', blockBytes: 4096, queueDepth: 16 },
  { name: '64 KiB qd8', blockBytes: 64 * 1024, queueDepth: 8 },
  { name: '1 MiB qd4', blockBytes: MiB, queueDepth: 4 },
];

export const vmCapture: Benchmark = {
  name: 'vm-capture',
  async run(context) {
    const why = whyNoVms();
    if (why !== undefined) throw new Error(`no VMs on this machine: ${why}`);
    const { rounds, seconds, pgbenchSeconds, bufferBytes } = context.plan.vmCapture;
    await using lab = await Laboratory.open();
    await using libvirt = await PrivateLibvirt.start(lab.processes, join(lab.directory, 'a'));
    const guest = await CaptureGuest.start(lab, libvirt);
    context.say('the guest runs');
    await guest.mirrorToQemuNbd();
    const pair = await startVmPair(lab, {
      ...{ vm, hypervisorUri: libvirt.uri, bufferBytes },
      disks: guest.targets('tidemark'),
    });
    context.say('its disks are mirrored');
    const watch = new Watch(pair, 200);
    const bed: CaptureBed = {
      shapes,
      costNames: ['all three'],
      write: async (contender, round, rates) => {
        const write = async (): Promise<FioSide[]> => {
          const said = await guest.fio(contender, fioArguments(seconds, round, rates));
          return parseFio(said).map((job) => job.write);
        };
        if (contender !== 'tidemark') return { sides: await write(), costs: [] };
        const { sides, cost } = await withCost(pair, write);
        return { sides, costs: [cost] };
      },
    };
    const full = await runRounds(bed, rounds);
    const half = await runRounds(bed, rounds, halfRates(full, shapes));
    const tps = await runPgbench(guest, pair, rounds, pgbenchSeconds);
    await watch.stop();
    const invalid = await describeRetreat(pair, watch);
    await noteMarks(context, 'guest', pair);
    notePairMemory(context, 'guest', pair, bufferBytes);
    const judged: Judged = { where: 'guest', bed, full, half, invalid };
    context.say(captureLine(judged));
    return {
      title: 'Capture in a guest',
      goals: captureGoals(judged),
      tables: [...captureTables(judged), pgbenchTable(tps)],
      notes: [
        `One vCPU, 512 MiB, virtio disks with cache=none; random writes by libaio over ${loadBytes / MiB} MiB, ${rounds} ` +
          `rounds of ${seconds} s for each shape; pgbench with 4 clients for ${pgbenchSeconds} s. All that was captured is ` +
          'durable before the next turn. qemu-nbd on a raw file, cache=writeback, one for each disk.',
        `Guest, both agents and qemu-nbd share this machine. ${steppedBackNote}`,
        invalid === undefined ? 'No retreat was entered (API and events).' : `Does not count: ${invalid}.`,
      ],
    };
  },
};

/** One run of fio, shape after shape: it takes seconds to start in an emulated guest. */
function fioArguments(seconds: number, round: number, rates: readonly number[] | undefined): string[] {
  return [
    '--output-format=json',
    ...['--ioengine=libaio', '--direct=1', '--rw=randwrite', `--size=${loadBytes}`, '--norandommap=1'],
    ...['--thread=1', '--time_based=1', `--runtime=${seconds}`, `--randseed=${round + 1}`, '--stonewall'],
    ...shapes.flatMap(({ blockBytes, queueDepth }, index) => [
      ...[`--name=shape${index}`, `--bs=${blockBytes}`, `--iodepth=${queueDepth}`],
      ...(rates === undefined ? [] : [`--rate=${Math.round(rates[index]!)}`]),
    ]),
  ];
}

type Tps = Record<Contender, number[]>;

async function runPgbench(guest: CaptureGuest, pair: CostPair, rounds: number, seconds: number): Promise<Tps> {
  const tps: Tps = { unprotected: [], 'qemu-nbd': [], tidemark: [] };
  for (let round = 0; round <= rounds; round++)
    for (let turn = 0; turn < contenders.length; turn++) {
      const contender = contenders[(round + turn) % contenders.length]!;
      const value = await guest.pgbench(contender, seconds);
      if (contender === 'tidemark') await pair.waitDrained();
      if (round > 0) tps[contender].push(value);
    }
  return tps;
}

function pgbenchTable(tps: Tps): Table {
  return {
    title: 'guest: pgbench, transactions a second',
    head: [...contenders, 'tidemark ÷ unprotected', 'tidemark ÷ qemu-nbd'],
    rows: [
      [
        ...contenders.map((each) => spread(series(tps[each]))),
        spread(ratios(tps.tidemark, tps.unprotected)),
        spread(ratios(tps.tidemark, tps['qemu-nbd'])),
      ],
    ],
  };
}
