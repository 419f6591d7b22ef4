/**
 * Application checkpoints of two real VMs under load: how long each is held, what a client outside of the VMs notices, what
 * PostgreSQL replays. Beside it, of the database's VM while it is not protected, the two usual ways: `virsh snapshot-create-as
 * --disk-only --quiesce`, its overlays committed back, and virtnbdbackup.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
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
/** Of each row; below what PostgreSQL would compress. */
const padBytes = 1900;

interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

export const hooks: Benchmark = {
  name: 'hooks',
  async run({ plan, say }) {
    const why = whyNoVms();
    if (why !== undefined) throw new Error(`no VMs on this machine: ${why}`);
    const { checkpointCount, redoCount, snapshotCount, crashSeconds } = plan.hooks;
    await using sites = await bootHookedSites();
    const { virsh } = sites.here;
    const log = await CommitLog.start(sites.lab.processes, virsh, { padBytes });
    say(`load without holds, ${crashSeconds} s`);
    const crashFromMs = Date.now();
    await waitFor('load', () => Date.now() > crashFromMs + crashSeconds * 1000, {
      ...{ timeoutMs: (crashSeconds + 10) * 1000, everyMs: 200 },
    });
    const unheld = await sites.target.client.checkpoints(group, {
      ...{ kind: 'crash', complete: true, limit: 1000, fromMs: crashFromMs },
    });
    const taken: Checkpoint[] = [];
    for (let count = 0; count < checkpointCount; count++) {
      taken.push(await sites.target.client.createCheckpoint(group));
      const untilMs = Date.now() + betweenMs;
      await waitFor('a moment', () => Date.now() > untilMs);
    }
    const holds = taken.map(holdOf);
    say(`${holds.filter(({ proven }) => proven).length} of ${holds.length} application checkpoints are proven`);

    await letGo(sites);
    const snapshots: Span[] = [];
    const backups: Span[] = [];
    const beyond: { snapshot: number; backup: number }[] = [];
    for (let count = 0; count < snapshotCount; count++) {
      snapshots.push(await snapshot(sites, `q${count}`, ['--quiesce']));
      backups.push(await backup(sites, count));
      const started = await timed(() => virsh.run(['domstate', 'db']));
      beyond.push({
        snapshot: lengthOf(await snapshot(sites, `n${count}`, [])) - lengthOf(started),
        backup: lengthOf(await backupJob(sites, count)) - lengthOf(started),
      });
    }
    await sites.source.client.attachVm('db');
    await log.stop();

    const redo = await redoOf(sites, taken, redoCount);
    const crashRedo = await redoOf(sites, unheld.checkpoints, redoCount);
    const proven = holds.filter((hold) => hold.proven);
    const usual = series(log.commits.map(latency)).median;
    const stalls = proven.map((hold) => stallOf(log.commits, spanOf(hold), usual));
    const [snapshotStalls, backupStalls] = [snapshots, backups].map((spans) =>
      spans.map((span) => stallOf(log.commits, span, usual)),
    ) as [number[], number[]];
    const db = proven.flatMap(({ vms }) => vms.filter(({ vm }) => vm === 'db'));
    const thaws = proven.flatMap(({ thawMs }) => (thawMs === null ? [] : [thawMs]));
    const thawMs = percentile(thaws, 0.5);
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
      ...(['snapshot', 'backup'] as const).map((kind): Goal => ({
        name: `hooks: held beyond the freeze itself, ${kind === 'snapshot' ? 'virsh snapshot' : 'virtnbdbackup'} ÷ Tidemark`,
        ...{ measured: series(beyond.map((each) => each[kind] / thawMs)), bound: 5, direction: 'at least' },
      })),
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
          row('the same for virtnbdbackup', backupStalls),
          row('Tidemark, from the freeze’s reply to the thaw', thaws),
          row(
            'virsh snapshot-create-as without --quiesce',
            beyond.map((each) => each.snapshot),
          ),
          row(
            'virsh backup-begin, as virtnbdbackup does',
            beyond.map((each) => each.backup),
          ),
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
        `Redo: crash checkpoints of ${crashSeconds} s of the same load without a hold, rows of ${padBytes} bytes. Beyond the freeze: of the ` +
          'others the command without the freeze, less the time that virsh takes to start.',
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
async function snapshot({ here: { virsh }, lab }: TwoTierSites, name: string, flags: readonly string[]): Promise<Span> {
  const spec = disks.flatMap((disk) => ['--diskspec', `${disk},file=${lab.path(`snapshot-${name}-${disk}.qcow2`)}`]);
  const span = await timed(() =>
    virsh.run(['snapshot-create-as', 'db', '--disk-only', '--no-metadata', ...flags, ...spec], { timeoutMs: 60_000 }),
  );
  for (const disk of disks)
    await virsh.run(['blockcommit', 'db', disk, '--active', '--pivot', '--wait'], { timeoutMs: 60_000 });
  return span;
}

/** The backup is begun as virtnbdbackup does, with its freeze, and ended before it copies anything. */
async function backup({ here, lab }: TwoTierSites, count: number): Promise<Span> {
  // It asks for a password where a transport is named.
  const uri = here.uri.replace('qemu+unix:', 'qemu:');
  const run = (...flags: string[]): Promise<string> =>
    lab.processes.run('virtnbdbackup', [
      ...['--uri', uri, '--domain', 'db', '--level', 'copy', '--raw', '--noprogress'],
      ...['--socketfile', lab.path(`backup-${count}.sock`), '--scratchdir', lab.directory, ...flags],
    ]);
  const output = (name: string): string[] => {
    const directory = lab.path(`backup-${count}-${name}`);
    mkdirSync(directory);
    return ['--output', directory];
  };
  const span = await timed(() => run(...output('start'), '--startonly'));
  await run(...output('kill'), '--killonly');
  return span;
}

/** What virtnbdbackup asks of libvirt while the guest is frozen: a backup that is read from a socket. */
async function backupJob({ here: { virsh }, lab }: TwoTierSites, count: number): Promise<Span> {
  const file = (name: string): string => lab.path(`backup-job-${count}-${name}`);
  const of = disks.map((disk) => `<disk name='${disk}' type='file'><scratch file='${file(disk)}'/></disk>`);
  const server = `<server transport='unix' socket='${file('socket')}'/>`;
  writeFileSync(file('xml'), `<domainbackup mode='pull'>${server}<disks>${of.join('')}</disks></domainbackup>`);
  const span = await timed(() => virsh.run(['backup-begin', 'db', file('xml')], { timeoutMs: 60_000 }));
  await virsh.run(['domjobabort', 'db']);
  return span;
}

async function timed(run: () => Promise<unknown>): Promise<Span> {
  const fromMs = Date.now();
  await run();
  return { fromMs, toMs: Date.now() };
}

function lengthOf({ fromMs, toMs }: Span): number {
  return toMs - fromMs;
}
