/** Numbers, times and tables for people. Nothing here is wider than {@link columnCount}. */
export const columnCount = 80;

const binaryUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `1.5 GiB` */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < binaryUnits.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${binaryUnits[unit]}`;
}

/** `4.2 s`, `3 min 10 s`, `2 h 5 min`, `3 d 4 h`; `-` for null. */
export function formatSeconds(seconds: number | null): string {
  if (seconds === null) return '-';
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** `2026-03-01 12:00:05Z` */
export function formatTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19).replace('T', ' ')}Z`;
}

/** Left-aligned columns two spaces apart; the widest give way until the table fits. Plain text: colour it afterwards. */
export function formatTable(
  headers: readonly string[],
  rows: readonly (readonly string[])[],
  widthMax = columnCount,
): string {
  const widths = headers.map((header, column) =>
    Math.max(header.length, ...rows.map((row) => oneLine(row[column]).length)),
  );
  let excess = widths.reduce((sum, width) => sum + width, 0) + 2 * (widths.length - 1) - widthMax;
  while (excess-- > 0) {
    const widest = widths.indexOf(Math.max(...widths));
    widths[widest] = widths[widest]! - 1;
  }
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => shorten(oneLine(cell), widths[column]!).padEnd(widths[column]!))
      .join('  ')
      .trimEnd();
  return [line(headers), ...rows.map(line)].map((text) => `${text}\n`).join('');
}

/** What an agent sent must not steer the terminal. */
export function oneLine(text = ''): string {
  // eslint-disable-next-line no-control-regex
  return text.replaceAll(/[\x00-\x1f\x7f-\x9f]+/g, ' ');
}

function shorten(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`;
}

const levels = '▁▂▃▄▅▆▇█';

/** One character a value, scaled from 0 to the largest. */
export function sparkline(values: readonly number[]): string {
  const max = Math.max(...values, Number.MIN_VALUE);
  return values
    .map((value) => levels[Math.min(levels.length - 1, Math.floor((value / max) * (levels.length - 1) + 0.5))])
    .join('');
}
