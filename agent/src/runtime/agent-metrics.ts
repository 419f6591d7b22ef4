/** Metrics of the data path beside those that the API reads from the groups' states. All are read when asked for. */
import { readFileSync } from 'node:fs';
import { Gauge, type Registry } from 'prom-client';
import type { Histogram } from '../capture/histogram.js';
import type { AttachPermits } from '../guard/attach-permits.js';
import type { GuardKeeper } from '../guard/guard-keeper.js';
import type { NbdServer } from '../nbd/server.js';
import type { SlabPool } from '../nbd/slab.js';
import type { SourceSide } from './source-side.js';
import type { TargetSide } from './target-side.js';

type Labels = Record<string, string>;
type Sample = readonly [Labels, number];

export interface DataPath {
  readonly slabs: SlabPool;
  readonly nbd: NbdServer;
  readonly sources: SourceSide;
  readonly targets: TargetSide;
  readonly guard: GuardKeeper;
  readonly permits: AttachPermits;
}

interface DataPathMetric {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  readonly read: (path: DataPath) => readonly Sample[];
}

const quantiles = [0.5, 0.99, 0.999, 1];

function quantilesOf(group: string, histogram: Histogram): Sample[] {
  return quantiles.map((quantile) => [
    { group, quantile: String(quantile) },
    (quantile === 1 ? histogram.maxUs : histogram.quantileUs(quantile)) / 1e6,
  ]);
}

function perSource(
  name: string,
  help: string,
  read: (group: ReturnType<SourceSide['list']>[number]['group']) => number,
): DataPathMetric {
  return {
    name: `tidemark_capture_${name}`,
    help,
    labels: ['group'],
    read: ({ sources }) => sources.list().map(({ group }) => [{ group: group.name }, read(group)]),
  };
}

function perExport(
  name: string,
  help: string,
  read: (status: ReturnType<NbdServer['exports']>[number]) => number,
): DataPathMetric {
  return {
    name: `tidemark_nbd_${name}`,
    help,
    labels: ['export'],
    read: ({ nbd }) => nbd.exports().map((status) => [{ export: status.name }, read(status)]),
  };
}

function perTarget(
  name: string,
  help: string,
  read: (group: ReturnType<TargetSide['list']>[number]) => number,
): DataPathMetric {
  return {
    name: `tidemark_${name}`,
    help,
    labels: ['group'],
    read: ({ targets }) => targets.list().map((group) => [{ group: group.name }, read(group)]),
  };
}

function slab(name: string, help: string, read: (status: ReturnType<SlabPool['status']>) => number): DataPathMetric {
  return {
    name: `tidemark_slab_${name}`,
    help,
    labels: [],
    read: ({ slabs }) => [[{}, read(slabs.status())]],
  };
}

/** docs/metrics.md is made from it. */
export const dataPathMetrics: readonly DataPathMetric[] = [
  {
    name: 'tidemark_storage_written_bytes_total',
    help: 'Written to block devices: journal, replica, scratch, spool, compaction together',
    labels: [],
    read: () => {
      const bytes = storageWrittenBytes();
      return bytes === undefined ? [] : [[{}, bytes]];
    },
  },
  perSource('writes_total', 'Changes that were captured', (group) => group.status.capturedCount),
  perSource('bytes_total', 'Bytes that were captured', (group) => group.status.capturedBytes),
  perSource('marks_total', 'Checkpoint marks placed', (group) => group.status.markCount),
  perSource('barriers_broken_total', 'Holds that took too long', (group) => group.status.barriersBroken),
  {
    name: 'tidemark_capture_mark_seconds',
    help: 'Time that a checkpoint mark took',
    labels: ['group', 'quantile'],
    read: ({ sources }) => sources.list().flatMap(({ group }) => quantilesOf(group.name, group.markDuration)),
  },
  {
    name: 'tidemark_capture_mark_lateness_seconds',
    help: 'From the moment a checkpoint was due until its sequence was given',
    labels: ['group', 'quantile'],
    read: ({ sources }) => sources.list().flatMap(({ group }) => quantilesOf(group.name, group.markLateness)),
  },
  slab('limit_bytes', 'Memory that payloads may take', ({ limitBytes }) => limitBytes),
  slab('allocated_bytes', 'Slabs that exist', ({ allocatedBytes }) => allocatedBytes),
  slab('held_bytes', 'Slabs that hold payloads', ({ heldBytes }) => heldBytes),
  slab('pressure_total', 'Times that no memory was free', ({ pressureCount }) => pressureCount),
  slab('waiting', 'NBD clients that wait for memory', ({ waitingCount }) => waitingCount),
  perExport('clients', 'Connected NBD clients', ({ connections }) => connections),
  perExport('reads_total', 'READ requests', ({ reads }) => reads),
  perExport('writes_total', 'WRITE requests', ({ writes }) => writes),
  perExport('zeroes_total', 'WRITE_ZEROES requests', ({ zeroes }) => zeroes),
  perExport('trims_total', 'TRIM requests', ({ trims }) => trims),
  perExport('flushes_total', 'FLUSH requests', ({ flushes }) => flushes),
  perExport('errors_total', 'Requests answered with an error', ({ errors }) => errors),
  perExport('read_bytes_total', 'Bytes read', ({ bytesRead }) => bytesRead),
  perExport('written_bytes_total', 'Bytes written', ({ bytesWritten }) => bytesWritten),
  perExport(
    'oldest_unacknowledged_seconds',
    'Age of the oldest write that is not acknowledged; 0 when there is none',
    ({ oldestUnacknowledgedMs }) => oldestUnacknowledgedMs / 1000,
  ),
  {
    name: 'tidemark_guard_up',
    help: '1 while the guard runs that lets guests go when this agent hangs; 0 without mirror exports',
    labels: [],
    read: ({ guard }) => [[{}, guard.pid === undefined ? 0 : 1]],
  },
  {
    name: 'tidemark_guard_connections',
    help: 'Connections that the guard can let go',
    labels: [],
    read: ({ guard }) => [[{}, guard.connectionCount]],
  },
  {
    name: 'tidemark_guard_restarts_total',
    help: 'Guards that died and were replaced',
    labels: [],
    read: ({ guard }) => [[{}, guard.restartCount]],
  },
  {
    name: 'tidemark_guard_let_goes',
    help: 'Times in the last hour that the agent hung and its guests were let go',
    labels: [],
    read: ({ permits }) => [[{}, permits.recentCount]],
  },
  perTarget('journal_promotions_total', 'Promotions of the replica', (group) => group.upkeep.counters.promotions),
  perTarget(
    'journal_promoted_bytes_total',
    'Journal bytes given up by promotion',
    (group) => group.upkeep.counters.promotedBytes,
  ),
  perTarget('journal_compactions_total', 'Compactions', (group) => group.upkeep.counters.compactions),
  perTarget(
    'journal_compacted_bytes_total',
    'Journal bytes saved by compaction',
    (group) => group.upkeep.counters.compactedBytes,
  ),
  perTarget(
    'journal_thinned_total',
    'Checkpoints given up by thinning',
    (group) => group.upkeep.counters.checkpointsThinned,
  ),
  perTarget(
    'replica_scrubbed_bytes_total',
    'Bytes of the replica checked against their digests by the scrub',
    (group) => group.upkeep.scrub.counters.checkedBytes,
  ),
  perTarget('replica_scrub_passes_total', 'Passes of the scrub', (group) => group.upkeep.scrub.counters.passes),
  perTarget(
    'replica_scrub_pass_share',
    'Part of the present pass that is done',
    (group) => group.upkeep.scrub.passShare,
  ),
  perTarget(
    'replica_damaged_chunks',
    'Chunks of 64 KiB that are damaged now and are not served',
    (group) => group.upkeep.scrub.damagedCount,
  ),
  perTarget(
    'replica_repaired_chunks_total',
    'Damaged chunks that are whole again',
    (group) => group.upkeep.scrub.counters.repaired,
  ),
  {
    name: 'tidemark_journal_received_bytes',
    help: 'Bytes received on the present connection of a stream',
    labels: ['group', 'stream'],
    read: ({ targets }) =>
      targets
        .list()
        .flatMap((group) =>
          group
            .sessionList()
            .map((session): Sample => [{ group: group.name, stream: session.peerName }, session.receivedBytes]),
        ),
  },
];

/** Bytes that this process had written to block devices, as the kernel counts; undefined where it does not tell. */
function storageWrittenBytes(): number | undefined {
  try {
    return Number(/^write_bytes: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1]);
  } catch {
    return undefined;
  }
}

export function registerDataPath(registry: Registry, path: DataPath): void {
  for (const metric of dataPathMetrics) {
    new Gauge({
      name: metric.name,
      help: metric.help,
      labelNames: [...metric.labels],
      registers: [registry],
      collect() {
        this.reset();
        for (const [labels, value] of metric.read(path)) this.set(labels, value);
      },
    });
  }
}
