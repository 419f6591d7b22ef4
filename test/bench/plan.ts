/** Sizes and durations of a run. Quick: does everything run, in about a minute or two. Full: the numbers that count. */
import { GiB, MB, MiB } from './statistics.js';

export interface Plan {
  readonly burst: {
    readonly rounds: number;
    readonly bufferBytes: number;
    readonly smallTotalBytes: number;
    readonly largeTotalBytes: number;
    readonly latencyTotalBytes: number;
  };
  readonly sustained: {
    readonly seconds: number;
    readonly bufferBytes: number;
    readonly spoolBytes: number;
    readonly ddRounds: number;
    readonly ddBytes: number;
    readonly profileSeconds: number;
  };
  readonly views: {
    readonly journalBytes: number;
    readonly recordCount: number;
    readonly diskBytes: number;
    /** Seconds between checkpoints of the first 4 hours. */
    readonly intervalSeconds: number;
    readonly openRounds: number;
    readonly readRounds: number;
    readonly readSeconds: number;
  };
  readonly link: {
    readonly capacityBytesPerSecond: number;
    readonly intervalSeconds: number;
    readonly steadySeconds: number;
    readonly hotLinkBytesPerSecond: number;
    readonly hotSetBytes: number;
    readonly hotSeconds: number;
    readonly churnLinkBytesPerSecond: number;
    readonly churnSeconds: number;
    readonly churnRounds: number;
  };
  readonly mirror: {
    readonly rounds: number;
    readonly bufferBytes: number;
    /** Each shape ends at whatever comes first. */
    readonly totalBytes: number;
    readonly seconds: number;
  };
  readonly vmCapture: {
    readonly rounds: number;
    readonly bufferBytes: number;
    /** For each shape. */
    readonly seconds: number;
    readonly pgbenchSeconds: number;
  };
  readonly rto: {
    readonly diskBytes: number;
    readonly journalBytes: number;
    readonly checkpointCount: number;
    readonly rounds: number;
  };
  /** `crashSeconds`: of load without a hold, for the redo of crash checkpoints. */
  readonly hooks: {
    readonly checkpointCount: number;
    readonly redoCount: number;
    readonly snapshotCount: number;
    readonly crashSeconds: number;
  };
  readonly reverse: { readonly diskBytes: number; readonly rounds: number };
  readonly pulumi: { readonly applicationCount: number; readonly rounds: number };
  readonly amplification: {
    readonly loadBytes: number;
    readonly loadSeconds: number;
    /** Background work has ended when nothing moved for so long; longer than the history window. */
    readonly quietSeconds: number;
  };
}

export const fullPlan: Plan = {
  burst: {
    rounds: 5,
    bufferBytes: GiB,
    smallTotalBytes: 256 * MiB,
    largeTotalBytes: 384 * MiB,
    latencyTotalBytes: 48 * MiB,
  },
  sustained: {
    seconds: 60,
    bufferBytes: 256 * MiB,
    spoolBytes: 256 * MiB,
    ddRounds: 3,
    ddBytes: 2 * GiB,
    profileSeconds: 20,
  },
  views: {
    journalBytes: 10 * GiB,
    recordCount: 1_048_576,
    diskBytes: 4 * GiB,
    intervalSeconds: 4,
    openRounds: 3,
    readRounds: 3,
    readSeconds: 3,
  },
  link: {
    capacityBytesPerSecond: 40 * MB,
    intervalSeconds: 5,
    steadySeconds: 60,
    hotLinkBytesPerSecond: 8 * MB,
    hotSetBytes: 128 * MiB,
    hotSeconds: 90,
    churnLinkBytesPerSecond: 20 * MB,
    churnSeconds: 20,
    churnRounds: 2,
  },
  mirror: { rounds: 7, bufferBytes: GiB, totalBytes: 384 * MiB, seconds: 2 },
  vmCapture: { rounds: 7, bufferBytes: GiB, seconds: 2, pgbenchSeconds: 6 },
  rto: { diskBytes: 4 * GiB, journalBytes: 1.25 * GiB, checkpointCount: 600, rounds: 5 },
  hooks: { checkpointCount: 50, redoCount: 7, snapshotCount: 3, crashSeconds: 90 },
  reverse: { diskBytes: GiB, rounds: 3 },
  pulumi: { applicationCount: 50, rounds: 5 },
  amplification: { loadBytes: 512 * MiB, loadSeconds: 40, quietSeconds: 70 },
};

export const quickPlan: Plan = {
  burst: {
    rounds: 1,
    bufferBytes: 256 * MiB,
    smallTotalBytes: 32 * MiB,
    largeTotalBytes: 96 * MiB,
    latencyTotalBytes: 4 * MiB,
  },
  sustained: {
    seconds: 6,
    bufferBytes: 128 * MiB,
    spoolBytes: 64 * MiB,
    ddRounds: 1,
    ddBytes: 256 * MiB,
    profileSeconds: 4,
  },
  views: {
    journalBytes: 192 * MiB,
    recordCount: 20_000,
    diskBytes: 128 * MiB,
    intervalSeconds: 60,
    openRounds: 1,
    readRounds: 1,
    readSeconds: 1,
  },
  link: {
    capacityBytesPerSecond: 20 * MB,
    intervalSeconds: 1,
    steadySeconds: 6,
    hotLinkBytesPerSecond: 8 * MB,
    hotSetBytes: 64 * MiB,
    hotSeconds: 30,
    churnLinkBytesPerSecond: 20 * MB,
    churnSeconds: 4,
    churnRounds: 1,
  },
  mirror: { rounds: 2, bufferBytes: 512 * MiB, totalBytes: 96 * MiB, seconds: 1 },
  vmCapture: { rounds: 2, bufferBytes: GiB, seconds: 1, pgbenchSeconds: 2 },
  rto: { diskBytes: 256 * MiB, journalBytes: 64 * MiB, checkpointCount: 40, rounds: 1 },
  hooks: { checkpointCount: 3, redoCount: 2, snapshotCount: 1, crashSeconds: 15 },
  reverse: { diskBytes: 64 * MiB, rounds: 1 },
  pulumi: { applicationCount: 5, rounds: 1 },
  amplification: { loadBytes: 64 * MiB, loadSeconds: 4, quietSeconds: 3 },
};
