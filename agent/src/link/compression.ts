/** Which zstd level the next block gets: by the processors left over and by what compression gained lately. */

/** Below this share of idle processors nothing is compressed. */
const idleShareMin = 0.1;
/** Compressed size over raw size above which data counts as incompressible. */
const ratioMax = 0.9;
/** While data is incompressible, one block in so many is tried again. */
const probeEvery = 32;

export class CompressionPolicy {
  private readonly cpuIdleShare: () => number;
  /** Moving average of compressed over raw size. */
  private ratio = 0.5;
  private skipped = 0;

  constructor(cpuIdleShare: () => number) {
    this.cpuIdleShare = cpuIdleShare;
  }

  /** 0: store as it is; else the zstd level, 1…6. */
  level(rawBytes: number): number {
    if (rawBytes < 64) return 0;
    const idle = this.cpuIdleShare();
    if (idle < idleShareMin) return 0;
    if (this.ratio > ratioMax && ++this.skipped % probeEvery !== 0) return 0;
    if (idle < 0.3) return 1;
    return idle < 0.6 ? 3 : 6;
  }

  observe(rawBytes: number, compressedBytes: number): void {
    this.ratio = this.ratio * 0.75 + (compressedBytes / rawBytes) * 0.25;
  }
}
