/** The source agent's own measurement of its checkpoint marks, from its metrics. */
import { findMetric, parseMetrics } from '../support/metrics-text.js';
import type { BenchContext, WatchedPair } from './context.js';

const names = {
  count: 'tidemark_capture_marks_total',
  mark: 'tidemark_capture_mark_seconds',
  lateness: 'tidemark_capture_mark_lateness_seconds',
};

export async function noteMarks(context: BenchContext, phase: string, pair: WatchedPair): Promise<void> {
  const samples = parseMetrics(await pair.source.client.metrics());
  const labels = { group: pair.group };
  const p99 = (name: string): number =>
    (findMetric(samples, name, { ...labels, quantile: '0.99' }) ?? Number.NaN) * 1e6;
  context.marks.push({
    phase,
    count: findMetric(samples, names.count, labels) ?? 0,
    markP99Us: p99(names.mark),
    latenessP99Us: p99(names.lateness),
  });
}
