/** Medians with their spread: machines are noisy, so no number stands alone. */
export interface Series {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly count: number;
}

export function series(values: readonly number[]): Series {
  const sorted = values.filter((value) => Number.isFinite(value)).sort((a, b) => a - b);
  if (sorted.length === 0) return { median: Number.NaN, min: Number.NaN, max: Number.NaN, count: 0 };
  const middle = Math.floor(sorted.length / 2);
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, min: sorted[0]!, max: sorted.at(-1)!, count: sorted.length };
}

/** Ratio of each round to the other contender's round, so that what disturbed both falls out. */
export function ratios(values: readonly number[], others: readonly number[]): Series {
  return series(values.map((value, index) => value / (others[index] ?? Number.NaN)));
}

/** Nearest rank, `share` 0…1. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

/** Three significant digits, at most three decimals. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return '–';
  if (value === 0) return '0';
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return digits === 0 ? Math.round(value).toString() : value.toFixed(Math.min(digits, 3));
}

/** `median (min…max)`; one value alone when there was one round. */
export function spread(value: Series): string {
  if (value.count <= 1) return number(value.median);
  return `${number(value.median)} (${number(value.min)}…${number(value.max)})`;
}

export const MB = 1e6;
export const MiB = 1024 ** 2;
export const GiB = 1024 ** 3;
