/**
 * Application checkpoints of two real VMs under load: how long each is held, what a client outside of the VMs notices, what
 * PostgreSQL replays. Beside it `virsh snapshot-create-as --disk-only --quiesce` of the database's VM while it is not protected.
 */
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import { CommitLog, type Commit } from '../support/commit-log.js';
import { lookInto } from '../support/exported-application.js';
import { bootHookedSites, holdOf, type Hold } from '../support/hooked-sites.js';
import { group, type TwoTierSites } from '../support/two-tier-sites.js';
import { whyNoVms } from '../support/vm-host.js';
import { waitFor } from '../support/wait.js';
import type { Benchmark } from './context.js';
import type { Goal, Table } from './report.js';
import { number, percentile, series, spread } from './statistics.js';

const betweenMs = 1000;
const disks = ['vda', 'vdb', 'vdc'];

interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

export const hooks: Benchmark = {
  name: 'hooks',
  async run({ plan, say }) {
    const why = whyNoVms();
    if (why !== undefined) throw new Error(`no VMs on this machine: ${why}`);
    const { checkpointCount, redoCount, snapshotCount } = plan.hooks;
    await using sites = await bootHookedSites();
    const { virsh } = sites.here;
    const log = await CommitLog.start(sites.lab.processes, virsh);
    const taken: Checkpoint[] = [];
    for (let count = 0; count < checkpointCount; count++) {
      taken.push(await sites.target.client.createCheckpoint(group));
      const untilMs = Date.now() + betweenMs;
      await waitFor('a moment', () => Date.now() > untilMs);
    }
    const crashes = (await sites.target.client.checkpoints(group, { kind: 'crash', complete: true, limit: 200 }))
      .checkpoints;
    const holds = taken.map(holdOf);
    say(`${holds.filter(({ proven }) => proven).length} of ${holds.length} application checkpoints are proven`);

    await letGo(sites);
    const snapshots: Span[] = [];
    for (let count = 0; count < snapshotCount; count++) snapshots.push(await snapshot(sites, count));
    await sites.source.client.attachVm('db');
    await log.stop();

    const redo = await redoOf(sites, taken, redoCount);
    const crashRedo = await redoOf(
      sites,
      crashes.filter(({ attributes }) => attributes['application'] === undefined),
      redoCount,
    );
    const proven = holds.filter((hold) => hold.proven);
    const usual = series(log.commits.map(latency)).median;
    const stalls = proven.map((hold) => stallOf(log.commits, spanOf(hold), usual));
    const snapshotStalls = snapshots.map((span) => stallOf(log.commits, span, usual));
    const db = proven.flatMap(({ vms }) => vms.filter(({ vm }) => vm === 'db'));
    const thaws = proven.flatMap(({ thawMs }) => (thawMs === null ? [] : [thawMs]));
    const one = (value: number): ReturnType<typeof series> => series([value]);
    const goals: Goal[] = [
      {
        name: 'application checkpoints that are proven, share',
        ...{ measured: one(proven.length / holds.length), bound: 1, direction: 'at least' },
      },
      {
        name: 'hooks: mark p99',
        ...{
          measured: one(
            percentile(
              proven.map(({ markUs }) => markUs),
              0.99,
            ),
          ),
          bound: 100,
          direction: 'at most',
          unit: 'µs',
        },
      },
      {
        name: 'hooks: reply of the freeze to thaw written, p99',
        ...{ measured: one(percentile(thaws, 0.99)), bound: 10, direction: 'at most', unit: 'ms' },
      },
      {
        name: 'hooks: stall of a client with a checkpoint a minute, share of time',
        ...{ measured: one(series(stalls).median / 60_000), bound: 0.01, direction: 'at most' },
      },
      {
        name: 'hooks: redo of PostgreSQL at application checkpoints',
        ...{ measured: one(Math.max(...redo) / 1024 ** 2), bound: 1, direction: 'at most', unit: 'MiB' },
      },
      {
        name: 'hooks: redo beside the median of crash checkpoints, share',
        ...{ measured: one(Math.max(...redo) / series(crashRedo).median), bound: 0.1, direction: 'at most' },
      },
    ];
    const row = (name: string, values: readonly number[]): string[] => [
      name,
      number(percentile(values, 0.5)),
      number(percentile(values, 0.99)),
    ];
    const tables: Table[] = [
      {
        title: 'Application checkpoints, ms',
        head: ['', 'p50', 'p99'],
        rows: [
          row(
            'both VMs, from the first quiesce to the last release',
            proven.map(({ holdMs }) => holdMs),
          ),
          row(
            'the database’s VM held',
            db.map(({ holdMs }) => holdMs),
          ),
          row(
            'prepared before the hold',
            db.map(({ prepareMs }) => prepareMs),
          ),
          row('a client’s commit waits longer than usual', stalls),
          row('the same for virsh snapshot-create-as --quiesce', snapshotStalls),
        ],
      },
      {
        title: 'Redo of PostgreSQL, bytes',
        head: ['application checkpoints', 'crash checkpoints'],
        rows: [[spread(series(redo)), spread(series(crashRedo))]],
      },
    ];
    return {
      title: 'Application checkpoints',
      goals,
      tables,
      notes: [
        `${holds.length} checkpoints of two emulated VMs, a client outside that commits one row after the other (usually ${number(usual)} ms). ` +
          'fsfreeze in both VMs, PostgreSQL’s hook in the database, the client’s tier first. The stall is the longest commit that ' +
          'overlaps the hold, less the usual one.',
        'Not compared here: virtnbdbackup.',
      ],
    };
  },
};

function latency({ sentMs, acknowledgedMs }: Commit): number {
  return acknowledgedMs - sentMs;
}

function spanOf({ heldFromMs, holdMs }: Hold): Span {
  return { fromMs: heldFromMs, toMs: heldFromMs + holdMs };
}

/** Milliseconds that the slowest commit of the span took longer than usual. */
function stallOf(commits: readonly Commit[], { fromMs, toMs }: Span, usualMs: number): number {
  const touched = commits.filter(({ sentMs, acknowledgedMs }) => acknowledgedMs >= fromMs && sentMs <= toMs);
  return Math.max(0, ...touched.map((commit) => latency(commit) - usualMs));
}

async function redoOf(sites: TwoTierSites, checkpoints: readonly Checkpoint[], count: number): Promise<number[]> {
  const step = Math.max(1, Math.floor(checkpoints.length / count));
  const chosen = checkpoints.filter((_, index) => index % step === 0).slice(0, count);
  const redo: number[] = [];
  for (const { id } of chosen) redo.push((await lookInto(sites, `redo-${id}`, { db: id })).redoBytes);
  return redo;
}

/** libvirt refuses a snapshot of a disk that is mirrored. */
async function letGo({ source, here: { virsh } }: TwoTierSites): Promise<void> {
  await source.client.releaseVm('db', { forSeconds: 3600 });
  const question = JSON.stringify({ execute: 'query-block-jobs' });
  await waitFor(
    'no disk of the database is mirrored',
    async () => {
      const { return: jobs } = JSON.parse(await virsh.run(['qemu-monitor-command', 'db', question])) as {
        return: object[];
      };
      return jobs.length === 0;
    },
    { timeoutMs: 60_000 },
  );
}

/** One snapshot, its overlays committed back; the span in which it was made. */
async function snapshot({ here: { virsh }, lab }: TwoTierSites, count: number): Promise<Span> {
  const spec = disks.map((disk) => ['--diskspec', `${disk},file=${lab.path(`snapshot-${count}-${disk}.qcow2`)}`]);
  const fromMs = Date.now();
  await virsh.run(['snapshot-create-as', 'db', '--disk-only', '--quiesce', '--no-metadata', ...spec.flat()], {
    timeoutMs: 60_000,
  });
  const toMs = Date.now();
  for (const disk of disks)
    await virsh.run(['blockcommit', 'db', disk, '--active', '--pivot', '--wait'], { timeoutMs: 60_000 });
  return { fromMs, toMs };
}
