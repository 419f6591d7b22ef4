/** The journal as a picture: checkpoints from the oldest to now, 80 columns. */
import type { Checkpoint } from '../service/checkpoint-schemas.js';
import { columnCount, formatSeconds, formatTime, sparkline } from './format.js';

interface Timeline {
  readonly checkpoints: readonly Checkpoint[];
  readonly nowMs: number;
  /** Where the replica stands: before it there is nothing. */
  readonly replicaMs: number | null;
}

/**
 * Row 1: how many checkpoints in each slot (a dot: none, so a hole in the history is seen). Row 2: ◆ application,
 * ● tagged, ■ pinned, ○ incomplete; the most telling one of a slot. Row 3: the replica, and the ends in time.
 */
export function renderTimeline({ checkpoints, nowMs, replicaMs }: Timeline): string {
  if (checkpoints.length === 0) return 'no checkpoints\n';
  const times = checkpoints.map((checkpoint) => checkpoint.sourceTimeMs);
  const startMs = Math.min(...reduceEnds(times), replicaMs ?? Infinity);
  const endMs = Math.max(...reduceEnds(times), nowMs, startMs + 1);
  const slotOf = (ms: number): number =>
    Math.min(columnCount - 1, Math.max(0, Math.floor(((ms - startMs) / (endMs - startMs)) * columnCount)));

  const counts = new Array<number>(columnCount).fill(0);
  const marks = new Array<string>(columnCount).fill(' ');
  for (const checkpoint of checkpoints) {
    const slot = slotOf(checkpoint.sourceTimeMs);
    counts[slot]!++;
    const mark = markOf(checkpoint);
    if (rank.indexOf(mark) > rank.indexOf(marks[slot]!)) marks[slot] = mark;
  }
  // The logarithm keeps an hourly tier visible beside one checkpoint a second.
  const bars = sparkline(counts.map((count) => Math.log2(count + 1)));
  const density = [...bars].map((bar, slot) => (counts[slot] === 0 ? '·' : bar)).join('');
  const lines = [density, marks.join('').trimEnd()];
  if (replicaMs !== null) lines.push(`${' '.repeat(slotOf(replicaMs))}▲`);
  const [from, to] = [formatTime(startMs), formatTime(endMs)];
  lines.push(`${from}${' '.repeat(columnCount - from.length - to.length)}${to}`);
  lines.push(`${checkpoints.length} checkpoints over ${formatSeconds((endMs - startMs) / 1000)}`);
  lines.push('◆ application  ● tagged  ■ pinned  ○ incomplete  ▲ replica  · none');
  return lines.map((line) => `${line}\n`).join('');
}

const rank = [' ', '○', '●', '◆', '■'];

function markOf(checkpoint: Checkpoint): string {
  if (checkpoint.pins.length > 0) return '■';
  if (!checkpoint.complete) return '○';
  return checkpoint.kind === 'application' ? '◆' : checkpoint.kind === 'tagged' ? '●' : ' ';
}

/** Smallest and largest, without spreading a long list into arguments. */
function reduceEnds(values: readonly number[]): [number, number] {
  return values.reduce<[number, number]>(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
}

/** Seconds between neighbours, oldest first: what the RPO rose to before each checkpoint. */
export function checkpointGaps(newestFirst: readonly Checkpoint[]): number[] {
  const gaps: number[] = [];
  for (let i = newestFirst.length - 1; i > 0; i--)
    gaps.push((newestFirst[i - 1]!.sourceTimeMs - newestFirst[i]!.sourceTimeMs) / 1000);
  return gaps;
}
