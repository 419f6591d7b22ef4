/** Prometheus metrics; each name, unit and label is documented in docs/metrics.md (made from here). */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { GroupStatus } from '../service/group-schemas.js';
import type { AgentService } from '../service/service.js';

type Labels = Record<string, string>;
interface GroupMetric {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  readonly read: (group: GroupStatus) => Iterable<readonly [Labels, number | null]>;
}

const g = (group: GroupStatus): Labels => ({ group: group.name, role: group.role });

function perGroup(name: string, help: string, value: (group: GroupStatus) => number | null): GroupMetric {
  return {
    name: `tidemark_group_${name}`,
    help,
    labels: ['group', 'role'],
    read: (group) => [[g(group), value(group)]],
  };
}

function perLink(
  name: string,
  help: string,
  value: (link: GroupStatus['links'][number]) => number | null,
): GroupMetric {
  const read: GroupMetric['read'] = (group) =>
    group.links.map((link) => [{ ...g(group), peer: link.peer, stream: link.stream }, value(link)] as const);
  return { name: `tidemark_link_${name}`, help, labels: ['group', 'role', 'peer', 'stream'], read };
}

const stages = ['buffer', 'spool', 'fold', 'bitmap'];

/** Read from the groups' state when Prometheus asks; null is left out. */
export const groupMetrics: readonly GroupMetric[] = [
  perGroup('rpo_seconds', 'Now minus source time of the newest durable checkpoint', (group) => group.rpoSeconds),
  perGroup('epoch', 'Epoch number', (group) => group.epoch?.epoch ?? null),
  perGroup(
    'checkpoint_interval_seconds',
    'Seconds between crash checkpoints at present',
    (group) => group.effectiveIntervalSeconds,
  ),
  perGroup('alerts', 'Alerts at present', (group) => group.alerts.length),
  perGroup('views', 'Open views', (group) => group.views.length),
  perGroup('journal_bytes', 'Bytes of the journal', (group) => group.journal?.bytes ?? null),
  perGroup('journal_limit_bytes', 'Hard limit of the journal', (group) => group.journal?.hardLimitBytes ?? null),
  perGroup('journal_pending_bytes', 'Received and not yet durable', (group) => group.journal?.pendingBytes ?? null),
  perGroup('journal_checkpoints', 'Checkpoints kept', (group) => group.journal?.checkpointCount ?? null),
  perGroup(
    'journal_free_bytes',
    'Free for the journal on its file system',
    (group) => group.journal?.freeBytes ?? null,
  ),
  {
    name: 'tidemark_group_state',
    help: '1 for the state that the group is in',
    labels: ['group', 'role', 'state'],
    read: (group) => [[{ ...g(group), state: group.state }, 1]],
  },
  {
    name: 'tidemark_sync_done_ratio',
    help: 'Share of a running sync that is done, 0 to 1',
    labels: ['group', 'role', 'kind'],
    read: (group) =>
      group.syncs.map(
        (sync) =>
          [{ ...g(group), kind: sync.kind }, sync.totalBytes === 0 ? 1 : sync.doneBytes / sync.totalBytes] as const,
      ),
  },
  {
    name: 'tidemark_view_scratch_bytes',
    help: 'Private writes of an open view',
    labels: ['group', 'role', 'view'],
    read: (group) => group.views.map((view) => [{ ...g(group), view: view.id }, view.scratchBytes] as const),
  },
  perLink('connected', '1 while the link is up', (link) => (link.state === 'connected' ? 1 : 0)),
  perLink('retreat_stage', '0 buffer, 1 spool, 2 fold, 3 bitmap (source only)', (link) =>
    link.stage === null ? null : stages.indexOf(link.stage),
  ),
  perLink('buffer_bytes', 'Memory held for writes that are not durable yet', (link) => link.bufferBytes),
  perLink('spool_bytes', 'Spool file held for writes that are not durable yet', (link) => link.spoolBytes),
  perLink('dirty_bytes', 'In the bitmap, to be synced', (link) => link.dirtyBytes),
  perLink('wire_bytes_per_second', 'On the wire, averaged over the last seconds', (link) => link.bytesPerSecond),
  perLink(
    'sequences_not_durable',
    'Writes given a sequence and not durable yet',
    (link) => link.sequenceGiven - link.sequenceDurable,
  ),
];

/** Counted by the API itself. */
export const apiMetricNames = [
  ['tidemark_api_request_seconds', 'Time to answer, by route', 'route'],
  ['tidemark_api_failures_total', 'Refused and failed requests, by error code', 'code'],
] as const;

export interface ApiMetrics {
  readonly registry: Registry;
  readonly requestSeconds: Histogram<'route'>;
  readonly failures: Counter<'code'>;
  text(): Promise<string>;
}

export function createMetrics(service: AgentService): ApiMetrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const gauges = groupMetrics.map((metric) => ({
    metric,
    gauge: new Gauge({ name: metric.name, help: metric.help, labelNames: [...metric.labels], registers: [registry] }),
  }));
  return {
    registry,
    requestSeconds: new Histogram({
      name: apiMetricNames[0][0],
      help: apiMetricNames[0][1],
      labelNames: ['route'],
      buckets: [0.001, 0.01, 0.1, 1, 10],
      registers: [registry],
    }),
    failures: new Counter({
      name: apiMetricNames[1][0],
      help: apiMetricNames[1][1],
      labelNames: ['code'],
      registers: [registry],
    }),
    text: async () => {
      const groups = await service.groups();
      for (const { metric, gauge } of gauges) {
        gauge.reset();
        for (const group of groups)
          for (const [labels, value] of metric.read(group)) if (value !== null) gauge.set(labels, value);
      }
      return registry.metrics();
    },
  };
}
