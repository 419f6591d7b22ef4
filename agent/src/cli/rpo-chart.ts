/** The RPO over time as a picture of 80 columns, and as SVG. */
import type { RpoHistory } from '../service/rpo-schemas.js';
import { columnCount, formatSeconds, formatTime } from './format.js';
import type { Colours } from './terminal.js';

export interface RpoPicture {
  readonly history: RpoHistory;
  readonly fromMs: number;
  readonly toMs: number;
}

const labelWidth = 10;
const width = columnCount - labelWidth - 1;
const height = 8;
const eighths = ' ▁▂▃▄▅▆▇█';
/** More than so many intervals is told apart. */
const lateIntervals = 3;

/** Worst of each column: undefined where nothing was seen, infinite where there was no durable checkpoint. */
function columnsOf({ history, fromMs, toMs }: RpoPicture, count: number): (number | undefined)[] {
  const columns = new Array<number | undefined>(count).fill(undefined);
  const slotMs = history.slotSeconds * 1000;
  const columnOf = (ms: number): number => Math.floor(((ms - fromMs) / Math.max(1, toMs - fromMs)) * count);
  for (const { atMs, rpoSeconds } of history.slots) {
    const first = Math.max(0, columnOf(atMs));
    // A slot that is wider than a column fills all that it covers.
    const last = Math.min(count - 1, Math.max(first, Math.ceil(columnOf(atMs + slotMs)) - 1));
    for (let column = first; column <= last; column++)
      columns[column] = Math.max(columns[column] ?? 0, rpoSeconds ?? Infinity);
  }
  return columns;
}

function topOf(values: readonly number[], intervalSeconds: number): number {
  return Math.max(...values.filter(Number.isFinite), intervalSeconds, 1);
}

/** Rows of blocks from 0 to the worst; `×`: no durable checkpoint; an empty column: the agent did not run. */
export function renderRpo(picture: RpoPicture, { green, yellow, red, dim }: Colours): string {
  const { history, fromMs, toMs } = picture;
  if (history.slots.length === 0) return 'nothing was seen in this time\n';
  const columns = columnsOf(picture, width);
  const late = history.checkpointIntervalSeconds * lateIntervals;
  const top = topOf(
    columns.filter((value) => value !== undefined),
    history.checkpointIntervalSeconds,
  );
  const lines: string[] = [];
  for (let row = height; row >= 1; row--) {
    const cells = columns.map((value) => {
      if (value === undefined) return row === 1 ? dim('·') : ' ';
      if (!Number.isFinite(value)) return red(row === height ? '×' : ' ');
      const filled = Math.max(row === 1 ? 1 : 0, Math.round((value / top) * height * 8) - (row - 1) * 8);
      const cell = eighths[Math.min(8, Math.max(0, filled))]!;
      return cell === ' ' ? cell : value > late ? yellow(cell) : green(cell);
    });
    const label = row === height ? formatSeconds(top) : row === 1 ? '0' : '';
    lines.push(`${label.padStart(labelWidth)} ${cells.join('')}`);
  }
  const [from, to] = [formatTime(fromMs), formatTime(toMs)];
  lines.push(`${' '.repeat(labelWidth + 1)}${from}${' '.repeat(width - from.length - to.length)}${to}`);
  return [...lines, ...summaryOf(history)].map((line) => `${line.trimEnd()}\n`).join('');
}

function summaryOf({ slots, checkpointIntervalSeconds, slotSeconds }: RpoHistory): string[] {
  const known = slots.flatMap(({ rpoSeconds }) => rpoSeconds ?? []).sort((a, b) => a - b);
  const without = slots.length - known.length;
  const at = (part: number): number => known[Math.min(known.length - 1, Math.floor(known.length * part))]!;
  const numbers =
    known.length === 0
      ? 'no durable checkpoint'
      : `RPO: half of the time ${formatSeconds(at(0.5))}, 95 % ${formatSeconds(at(0.95))}, worst ${formatSeconds(at(1))}`;
  return [
    `${numbers}; checkpoints every ${formatSeconds(checkpointIntervalSeconds)}`,
    ...(without > 0 && known.length > 0
      ? [`× without a durable checkpoint: ${formatSeconds(without * slotSeconds)}`]
      : []),
  ];
}

const svgWidth = 960;
const svgHeight = 240;
const svgLeft = 70;
const svgBottom = 30;
const svgTop = 30;

/** The same as a file for a report: no script, no font, nothing to load. */
export function rpoSvg(picture: RpoPicture): string {
  const { history, fromMs, toMs } = picture;
  const columns = columnsOf(picture, svgWidth - svgLeft - 10);
  const top = topOf(
    columns.filter((value) => value !== undefined),
    history.checkpointIntervalSeconds,
  );
  const [floor, room] = [svgHeight - svgBottom, svgHeight - svgBottom - svgTop];
  const bars = columns.flatMap((value, column) => {
    if (value === undefined) return [];
    const isKnown = Number.isFinite(value);
    const barHeight = isKnown ? Math.max(1, Math.round((value / top) * room)) : room;
    const colour = isKnown
      ? value > history.checkpointIntervalSeconds * lateIntervals
        ? '#d29922'
        : '#2da44e'
      : '#cf222e';
    const opacity = isKnown ? 1 : 0.3;
    return [
      `<rect x="${svgLeft + column}" y="${floor - barHeight}" width="1" height="${barHeight}" fill="${colour}" opacity="${opacity}"/>`,
    ];
  });
  const text = (x: number, y: number, anchor: string, words: string): string =>
    `<text x="${x}" y="${y}" text-anchor="${anchor}">${escaped(words)}</text>`;
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" width="${svgWidth}" height="${svgHeight}" font-family="sans-serif" font-size="12" fill="#57606a">`,
    `<rect width="${svgWidth}" height="${svgHeight}" fill="#ffffff"/>`,
    text(svgLeft, 18, 'start', `RPO of ${history.group}. ${summaryOf(history).join('. ')}`),
    text(svgLeft - 6, svgTop + 4, 'end', formatSeconds(top)),
    text(svgLeft - 6, floor, 'end', '0'),
    ...bars,
    `<line x1="${svgLeft}" y1="${floor}" x2="${svgWidth - 10}" y2="${floor}" stroke="#57606a"/>`,
    text(svgLeft, svgHeight - 10, 'start', formatTime(fromMs)),
    text(svgWidth - 10, svgHeight - 10, 'end', formatTime(toMs)),
    '</svg>',
  ].join('\n')}\n`;
}

function escaped(words: string): string {
  return words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
