/**
 * A writer that is always as fast as replication, and never faster: fio is stopped (SIGSTOP) while the source's buffer
 * is fuller than `pauseShare`, and goes on below `resumeShare`. So the durable rate is what the pipeline can do, with
 * no retreat. Both signals go to fio's one process.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Laboratory } from '../support/laboratory.js';
import type { Pair } from '../support/pair.js';
import { fioArguments, type FioJob } from '../support/tools.js';
import { Watch, type Sample } from './watch.js';

/** Half of the buffer is where folding begins. */
const pauseShare = 0.35;
const resumeShare = 0.2;

export interface FeedOptions {
  readonly lab: Laboratory;
  readonly pair: Pair;
  readonly job: FioJob;
  readonly bufferBytes: number;
  readonly seconds: number;
  /** Goes on beyond `seconds` until so much is durable. */
  readonly bytesMin: number;
  /** Called when the pipeline has filled, and again at the end. */
  readonly onPhase: (phase: 'begin' | 'end', fioPid: number) => Promise<void> | void;
}

export interface FeedResult {
  readonly seconds: number;
  readonly durableBytes: number;
  readonly samples: readonly Sample[];
  readonly worstStage: Watch['worstStage'];
  /** Share of the time that the writer was stopped. */
  readonly pausedShare: number;
}

const warmUpMs = 2000;

export async function feed(options: FeedOptions): Promise<FeedResult> {
  const { lab, pair, job, bufferBytes } = options;
  const limitSeconds = options.seconds * 5;
  // One thread in one process, so that the signals reach all of it.
  const fio = lab.processes.start('fio', 'fio', [
    ...fioArguments({ ...job, runtimeSeconds: limitSeconds }),
    '--thread=1',
  ]);
  let paused = false;
  let pausedMs = 0;
  let lastMs = performance.now();
  const regulate = (sample: Sample): void => {
    const now = performance.now();
    if (paused) pausedMs += now - lastMs;
    lastMs = now;
    const share = sample.bufferBytes / bufferBytes;
    if (!paused && share > pauseShare) process.kill(fio.pid, 'SIGSTOP');
    else if (paused && share < resumeShare) process.kill(fio.pid, 'SIGCONT');
    else return;
    paused = !paused;
  };
  const watch = new Watch(pair, 25, regulate);
  try {
    await sleep(warmUpMs);
    fioRuns(fio.isRunning, fio.logFile);
    await options.onPhase('begin', fio.pid);
    const first = watch.samples.at(-1)!;
    pausedMs = 0;
    const durableBytes = (): number => (watch.samples.at(-1)!.sequenceDurable - first.sequenceDurable) * job.blockBytes;
    const seconds = (): number => (watch.samples.at(-1)!.atMs - first.atMs) / 1000;
    while (seconds() < options.seconds || durableBytes() < options.bytesMin) {
      await sleep(100);
      fioRuns(fio.isRunning, fio.logFile);
      if (seconds() > limitSeconds * 0.9)
        throw new Error(`only ${durableBytes()} bytes were durable in ${seconds()} s`);
    }
    await options.onPhase('end', fio.pid);
    const result = { seconds: seconds(), durableBytes: durableBytes() };
    const samples = await watch.stop();
    return {
      ...result,
      samples: samples.filter(({ atMs }) => atMs >= first.atMs),
      worstStage: watch.worstStage,
      pausedShare: pausedMs / 1000 / result.seconds,
    };
  } finally {
    await watch.stop().catch(() => {});
    await fio.kill('SIGKILL');
  }
}

function fioRuns(isRunning: boolean, logFile: string): void {
  if (!isRunning) throw new Error(`fio ended early:\n${readFileSync(logFile, 'utf8').slice(-2000)}`);
}
