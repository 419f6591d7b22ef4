/**
 * The comparison of captures: the same writes to three disks of one QEMU, of which one is not protected, one is mirrored
 * to qemu-nbd and one to the agent. The contenders take turns in every round; their order turns too.
 */
import type { Pair } from '../support/pair.js';
import { readUsage } from '../support/process-usage.js';
import type { FioSide } from '../support/tools.js';
import type { Goal, Table } from './report.js';
import { GiB, number, ratios, series, spread, type Series } from './statistics.js';

export const contenders = ['unprotected', 'qemu-nbd', 'tidemark'] as const;
export type Contender = (typeof contenders)[number];

export interface Shape {
  readonly name: string;
  readonly blockBytes: number;
  readonly queueDepth: number;
}

/** CPU seconds of the agents for what a turn of Tidemark wrote, all of it durable. */
export interface AgentCost {
  readonly sourceSeconds: number;
  readonly targetSeconds: number;
  readonly bytes: number;
}

/** What one contender did in one turn. */
export interface Turn {
  /** One for each shape. */
  readonly sides: readonly FioSide[];
  /** One for each of the bed's `costNames`; of the others none. */
  readonly costs: readonly AgentCost[];
}

/** Where the writes are made. */
export interface CaptureBed {
  readonly shapes: readonly Shape[];
  readonly costNames: readonly string[];
  /** `rates`: bytes a second for each shape; left out: as fast as it goes. Nothing is under way when it resolves. */
  write(contender: Contender, round: number, rates?: readonly number[]): Promise<Turn>;
}

export type Rounds = Readonly<Record<Contender, Turn[]>>;

/** Round 0 warms files, page cache and compilers, and is not counted. */
export async function runRounds(bed: CaptureBed, rounds: number, rates?: readonly number[]): Promise<Rounds> {
  const turns: Rounds = { unprotected: [], 'qemu-nbd': [], tidemark: [] };
  for (let round = 0; round <= rounds; round++) {
    for (let turn = 0; turn < contenders.length; turn++) {
      const contender = contenders[(round + turn) % contenders.length]!;
      const done = await bed.write(contender, round, rates);
      if (round > 0) turns[contender].push(done);
    }
  }
  return turns;
}

/**
 * Half of what the disk takes without a mirror, for each shape; where a mirror to qemu-nbd cannot follow that, half of what
 * this mirror takes.
 */
export function halfRates(turns: Rounds, shapes: readonly Shape[]): number[] {
  return shapes.map((_, index) => {
    const median = (of: Contender): number => series(pick(turns[of], index, 'bytesPerSecond')).median;
    const half = median('unprotected') / 2;
    return median('qemu-nbd') > half * 1.1 ? half : median('qemu-nbd') / 2;
  });
}

export interface Judged {
  /** Begins the name of each goal. */
  readonly where: string;
  readonly bed: Pick<CaptureBed, 'shapes' | 'costNames'>;
  readonly full: Rounds;
  readonly half: Rounds;
  readonly invalid: string | undefined;
}

export function captureGoals({ where, bed, full, half, invalid }: Judged): Goal[] {
  return bed.shapes.flatMap(({ name }, index): Goal[] => {
    const compare = (from: Rounds, key: keyof FioSide): Series =>
      ratios(pick(from.tidemark, index, key), pick(from['qemu-nbd'], index, key));
    return [
      {
        name: `${where} ${name} rate ÷ mirror to qemu-nbd`,
        measured: compare(full, 'bytesPerSecond'),
        bound: 0.95,
        direction: 'at least',
        invalid,
        hint: 'Profile the source agent (TIDEMARK_AGENT=bundle, --cpu-prof) while this section runs.',
      },
      {
        name: `${where} ${name} at half rate: rate ÷ mirror to qemu-nbd`,
        measured: compare(half, 'bytesPerSecond'),
        bound: 0.99,
        direction: 'at least',
        invalid,
        hint: 'The mirror to the agent does not keep up with half of what the disk takes.',
      },
      {
        name: `${where} ${name} at half rate: p99 ÷ mirror to qemu-nbd`,
        measured: compare(half, 'p99Us'),
        bound: 1.25,
        direction: 'at most',
        invalid,
        hint: 'Look for turns of the event loop that are longer than a write (--cpu-prof), and for processors that are all busy.',
      },
    ];
  });
}

export function captureTables({ where, bed, full, half }: Judged): Table[] {
  const cells = (from: Rounds, index: number, key: keyof FioSide, scale: number): string[] =>
    contenders.map((each) => spread(series(pick(from[each], index, key).map((value) => value / scale))));
  const small = (index: number): boolean => bed.shapes[index]!.blockBytes === 4096;
  return [
    {
      title: `${where}: writes as fast as they go`,
      head: ['shape', ...contenders, 'tidemark ÷ unprotected'],
      rows: bed.shapes.map(({ name }, index) => [
        `${name}, ${small(index) ? 'k/s' : 'MB/s'}`,
        ...(small(index) ? cells(full, index, 'operationsPerSecond', 1e3) : cells(full, index, 'bytesPerSecond', 1e6)),
        spread(ratios(pick(full.tidemark, index, 'bytesPerSecond'), pick(full.unprotected, index, 'bytesPerSecond'))),
      ]),
    },
    {
      title: `${where}: at half of that rate, latency in µs`,
      head: ['shape', ...contenders],
      rows: bed.shapes.flatMap(({ name }, index) => [
        [`${name}, MB/s`, ...cells(half, index, 'bytesPerSecond', 1e6)],
        [`${name}, mean`, ...cells(half, index, 'meanUs', 1)],
        [`${name}, p50`, ...cells(half, index, 'p50Us', 1)],
        [`${name}, p99`, ...cells(half, index, 'p99Us', 1)],
        [`${name}, mean over unprotected`, ...contenders.map((each) => spread(added(half, index, each)))],
      ]),
    },
    {
      title: `${where}: CPU seconds of the agents for each GiB`,
      head: ['load', 'source', 'target'],
      rows: (
        [
          ['as fast as it goes', full],
          ['half rate', half],
        ] as const
      ).flatMap(([load, { tidemark }]) =>
        bed.costNames.map((name, index) => {
          const perGiB = (key: 'sourceSeconds' | 'targetSeconds'): string =>
            spread(series(tidemark.map(({ costs }) => costs[index]![key] / (costs[index]!.bytes / GiB))));
          return [`${name}, ${load}`, perGiB('sourceSeconds'), perGiB('targetSeconds')];
        }),
      ),
    },
  ];
}

/** How far it is, in one line. */
export function captureLine({ bed, full }: Judged): string {
  return bed.shapes
    .map(({ name }, index) => {
      const medians = contenders.map((each) =>
        number(series(pick(full[each], index, 'bytesPerSecond').map((value) => value / 1e6)).median),
      );
      return `${name}: ${medians.join(' / ')} MB/s`;
    })
    .join('; ');
}

/** Microseconds that a write takes longer than on the disk without a mirror, round by round. */
function added(turns: Rounds, index: number, contender: Contender): Series {
  const plain = pick(turns.unprotected, index, 'meanUs');
  return series(pick(turns[contender], index, 'meanUs').map((value, round) => value - (plain[round] ?? Number.NaN)));
}

function pick(turns: readonly Turn[], index: number, key: keyof FioSide): number[] {
  return turns.map(({ sides }) => sides[index]?.[key] ?? Number.NaN);
}

/** The agents, and how to wait until all that was captured is durable. */
export type CostPair = Pick<Pair, 'source' | 'target' | 'waitDrained'>;

/** What the two agents take for all that `write` captures, until it is durable. */
export async function withCost(
  pair: CostPair,
  write: () => Promise<readonly FioSide[]>,
): Promise<{ readonly sides: readonly FioSide[]; readonly cost: AgentCost }> {
  const seconds = (): number[] => [pair.source, pair.target].map(({ pid }) => readUsage(pid).cpuSeconds);
  const before = seconds();
  const sides = await write();
  await pair.waitDrained();
  const [sourceSeconds = 0, targetSeconds = 0] = seconds().map((value, index) => value - before[index]!);
  return { sides, cost: { sourceSeconds, targetSeconds, bytes: sides.reduce((sum, { bytes }) => sum + bytes, 0) } };
}
