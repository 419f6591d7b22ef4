/** Durations in microseconds, in buckets that grow by a quarter; for percentiles without keeping every value. */
const factor = 1.25;
const bucketCount = 96;

export class Histogram {
  private readonly counts = new Float64Array(bucketCount);
  count = 0;
  maxUs = 0;

  add(valueUs: number): void {
    const index = valueUs <= 1 ? 0 : Math.min(bucketCount - 1, Math.ceil(Math.log(valueUs) / Math.log(factor)));
    this.counts[index] = (this.counts[index] as number) + 1;
    this.count++;
    if (valueUs > this.maxUs) this.maxUs = valueUs;
  }

  /** Upper bound of the bucket that holds the share `quantile` (0…1); 0 when nothing was added. */
  quantileUs(quantile: number): number {
    let left = this.count * quantile;
    for (let index = 0; index < bucketCount; index++) {
      left -= this.counts[index] as number;
      if (left <= 0 && this.count > 0) return Math.min(this.maxUs, factor ** index);
    }
    return this.maxUs;
  }
}
