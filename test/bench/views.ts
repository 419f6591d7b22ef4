/**
 * Views: time to open one with a cold cache on a journal of 10 GiB, a million records and full default tiers, at the
 * oldest, a middle and the latest checkpoint; and random reads beside the replica file through qemu-nbd.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentHandle } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { runFio, runQemuIo, startQemuNbd, type FioSide } from '../support/tools.js';
import { noteMemory, type BenchContext, type Benchmark } from './context.js';
import type { Goal, Section } from './report.js';
import { GiB, MiB, number, ratios, series, spread } from './statistics.js';
import { writeSyntheticJournal, type SyntheticJournal } from './synthetic-journal.js';

const groupName = 'shop';
const places = ['oldest', 'middle', 'latest'] as const;
type Place = (typeof places)[number];
const shapes = [
  { name: '4 KiB qd32', queueDepth: 32 },
  { name: '4 KiB qd1', queueDepth: 1 },
] as const;

interface Opening {
  readonly openMs: number;
  readonly firstReadMs: number;
}

export const views: Benchmark = {
  name: 'views',
  async run(context) {
    const { plan, say } = context;
    await using lab = await Laboratory.open();
    const { journalBytes, recordCount, diskBytes, intervalSeconds } = plan.views;
    const target = await lab.prepareAgent('target', {
      peers: [{ name: 'source' }],
      targetGroups: [
        {
          name: groupName,
          streams: ['source'],
          disks: [{ name: 'data', sizeBytes: diskBytes, stream: 'source' }],
          checkpointIntervalSeconds: intervalSeconds,
        },
      ],
    });
    const directory = join(target.dataDirectory, 'groups', groupName);
    const journal = await writeSyntheticJournal({
      directory,
      group: groupName,
      stream: 'source',
      disk: 'data',
      diskBytes,
      journalBytes,
      recordCount,
      intervalSeconds,
      settings: { checkpointIntervalMs: intervalSeconds * 1000 },
    });
    say(`journal of ${number(journal.journalBytes / GiB)} GiB, ${journal.recordCount} records written`);

    const openings: Record<Place, Opening[]> = { oldest: [], middle: [], latest: [] };
    const starts: number[] = [];
    let cold = true;
    for (let round = 0; round < plan.views.openRounds; round++)
      for (const place of places) {
        const startMs = performance.now();
        await target.start({ timeoutMs: 120_000 });
        starts.push(performance.now() - startMs);
        cold = dropCaches() && cold;
        openings[place].push(await openOnce(lab, target, place, `${place}-${round}`));
        await target.stop();
      }
    for (const place of places)
      say(`${place}: opened in ${spread(series(openings[place].map((each) => each.openMs)))} ms`);

    await target.start({ timeoutMs: 120_000 });
    const reads = await measureReads(context, lab, target, join(directory, 'replica', '0.raw'));
    noteMemory(context, 'views', target, 0);
    await target.stop();
    return section(context, journal, openings, starts, reads, cold);
  },
};

async function openOnce(lab: Laboratory, target: AgentHandle, place: Place, id: string): Promise<Opening> {
  const checkpoint = await checkpointAt(target, place);
  const startMs = performance.now();
  const view = await target.client.openView(groupName, { id, at: { by: 'id', checkpoint } });
  const openMs = performance.now() - startMs;
  const readMs = performance.now();
  await runQemuIo(lab.processes, view.disks[0]!.uri, ['read 64k 4k']);
  const firstReadMs = performance.now() - readMs;
  await target.client.closeView(groupName, id, { force: true });
  return { openMs, firstReadMs };
}

async function checkpointAt(target: AgentHandle, place: Place): Promise<string> {
  const ids: string[] = [];
  for (let before: string | undefined; ;) {
    const page = await target.client.checkpoints(groupName, {
      limit: 1000,
      ...(before === undefined ? {} : { before }),
    });
    ids.push(...page.checkpoints.map(({ id }) => id));
    if (page.next === null) break;
    before = page.next;
  }
  const index = { latest: 0, middle: Math.floor(ids.length / 2), oldest: ids.length - 1 }[place];
  return ids[index]!;
}

/** False where it is not allowed: then nothing is cold, and the report says so. */
function dropCaches(): boolean {
  try {
    writeFileSync('/proc/sys/vm/drop_caches', '3');
    return true;
  } catch {
    return false;
  }
}

type Reads = Map<string, { view: FioSide[]; replica: FioSide[] }>;

interface ReadResult {
  readonly warm: Reads;
  /** The first reads of a view that was just opened, 4 KiB qd32: nothing of the journal was verified yet. */
  readonly firstTouch: ReadonlyMap<Place, FioSide>;
}

/** View and replica file in turn. Counted from when the whole disk has been read once through both. */
async function measureReads(
  { plan, say }: BenchContext,
  lab: Laboratory,
  target: AgentHandle,
  replicaFile: string,
): Promise<ReadResult> {
  const { diskBytes, readRounds, readSeconds } = plan.views;
  const firstTouch = new Map<Place, FioSide>();
  const socket = lab.path('replica.sock');
  const replica = await startQemuNbd(lab.processes, { name: 'qemu-nbd', file: replicaFile, socket, readOnly: true });
  const reads: Reads = new Map();
  for (const place of places) {
    const checkpoint = await checkpointAt(target, place);
    const view = await target.client.openView(groupName, { id: `read-${place}`, at: { by: 'id', checkpoint } });
    const uris = { view: view.disks[0]!.uri, replica: replica.uri };
    const random = async (uri: string, queueDepth: number, round: number): Promise<FioSide> => {
      const shape = { target: uri, operation: 'randread', blockBytes: 4096, queueDepth, sizeBytes: diskBytes } as const;
      return (await runFio(lab.processes, { ...shape, runtimeSeconds: readSeconds, randomSeed: round + 1 })).read;
    };
    firstTouch.set(place, await random(uris.view, 32, 0));
    for (const uri of Object.values(uris))
      await runFio(lab.processes, {
        target: uri,
        operation: 'read',
        blockBytes: MiB,
        queueDepth: 4,
        sizeBytes: diskBytes,
      });
    for (const { name, queueDepth } of shapes) {
      const sides = { view: [] as FioSide[], replica: [] as FioSide[] };
      for (let round = 1; round <= readRounds; round++)
        for (const side of ['view', 'replica'] as const) sides[side].push(await random(uris[side], queueDepth, round));
      reads.set(`${place}, ${name}`, sides);
      say(`${place}, ${name}: × replica ${spread(readRatio(sides))}`);
    }
    await target.client.closeView(groupName, `read-${place}`, { force: true });
  }
  return { warm: reads, firstTouch };
}

function readRatio({ view, replica }: { view: FioSide[]; replica: FioSide[] }) {
  const pick = (side: FioSide): number => side.operationsPerSecond;
  return ratios(view.map(pick), replica.map(pick));
}

function section(
  { plan }: BenchContext,
  journal: SyntheticJournal,
  openings: Record<Place, Opening[]>,
  starts: readonly number[],
  { warm: reads, firstTouch }: ReadResult,
  cold: boolean,
): Section {
  const openMs = (place: Place): number[] => openings[place].map((each) => each.openMs);
  const goals: Goal[] = [
    ...places.map((place): Goal => ({
      name: `view open, ${place}`,
      measured: series(openMs(place)),
      bound: 1000,
      direction: 'at most',
      unit: 'ms',
      invalid: cold ? undefined : 'the page cache could not be dropped',
      hint: 'Count the indexes that opening reads: it should consult headers, not pages.',
    })),
    ...[...reads].map(([name, sides]): Goal => ({
      name: `view read ÷ replica, ${name}`,
      measured: readRatio(sides),
      bound: 0.5,
      direction: 'at least',
      hint: 'Profile the target: index pages, digest checks and body decoding are all on its main thread.',
    })),
  ];
  return {
    title: 'Views',
    goals,
    tables: [
      {
        title: `Opening, cold cache, ${number(journal.journalBytes / GiB)} GiB of journal`,
        head: ['checkpoint', 'open ms', 'first read ms'],
        rows: places.map((place) => [
          place,
          spread(series(openMs(place))),
          spread(series(openings[place].map((each) => each.firstReadMs))),
        ]),
      },
      {
        title: 'Random reads of 4 KiB, warm cache, k/s',
        head: ['', 'view', 'replica (qemu-nbd)', 'view p99 µs', 'replica p99 µs'],
        rows: [...reads].map(([name, { view, replica }]) => [
          name,
          ...[view, replica].map((side) => spread(series(side.map((each) => each.operationsPerSecond / 1000)))),
          ...[view, replica].map((side) => number(series(side.map((each) => each.p99Us)).median)),
        ]),
      },
    ],
    notes: [
      `${journal.checkpointCount} checkpoints fill the default tiers (every ${plan.views.intervalSeconds} s for 4 h, one a ` +
        `minute for 24 h, one an hour for 30 d); ${journal.recordCount} records in ${journal.segmentCount} segments, on a ` +
        `disk of ${plan.views.diskBytes / MiB} MiB; the replica is full of data too.`,
      `Before each opening the agent is restarted and the page cache dropped. Start to ready: ${spread(series(starts))} ms.`,
      'The first read is a new qemu-io process: its start counts.',
      'Reads are counted after the whole disk was read once. Before that, on a view just opened (4 KiB qd32): ' +
        [...firstTouch].map(([place, side]) => `${place} ${number(side.operationsPerSecond / 1000)} k/s`).join(', ') +
        '.',
    ],
  };
}
