/**
 * A writer that is always as fast as replication, and never faster: fio is stopped (SIGSTOP) while the source's buffer
 * is fuller than `pauseShare`, and goes on below `resumeShare`. So the durable rate is what the pipeline can do, with
 * no retreat. Both signals go to fio's one process.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ManagedProcess } from '../support/processes.js';
import type { Laboratory } from '../support/laboratory.js';
import type { Pair } from '../support/pair.js';
import { fioArguments, type FioJob } from '../support/tools.js';
import { stages, type Stage } from './watch.js';

/** Shares of the configured buffer. Far below where folding begins: fio runs on until the next look. */
const pauseShare = 0.22;
const resumeShare = 0.14;
const lookEveryMs = 5;
/** Besides the checkpoints that are due: a p99 needs more marks than one a second. */
const tagEveryMs = 200;
const warmUpMs = 2000;

export interface FeedOptions {
  readonly lab: Laboratory;
  readonly pair: Pair;
  readonly job: FioJob;
  readonly bufferBytes: number;
  readonly seconds: number;
  /** Goes on beyond `seconds` until so much is durable. */
  readonly bytesMin: number;
  /** Called when the pipeline has filled, and again at the end. */
  readonly onPhase: (phase: 'begin' | 'end', fioPid: number) => void;
}

export interface FeedResult {
  readonly seconds: number;
  readonly durableBytes: number;
  readonly worstStage: Stage;
  readonly bufferBytesPeak: number;
  /** Share of the time that the writer was stopped; near 0: the writer binds, not the pipeline. */
  readonly pausedShare: number;
}

export async function feed(options: FeedOptions): Promise<FeedResult> {
  const { lab, pair, job, bufferBytes, seconds, bytesMin } = options;
  const limitSeconds = seconds * 5 + 30;
  // One thread in one process, so that the signals reach all of it.
  const fioArgs = [...fioArguments({ ...job, runtimeSeconds: limitSeconds }), '--thread=1'];
  const fio = lab.processes.start('fio', 'fio', fioArgs);
  const startMs = performance.now();
  let begin: { atMs: number; sequence: number } | undefined;
  let worst = 0;
  let bufferBytesPeak = 0;
  let paused = false;
  let pausedMs = 0;
  let lastMs = startMs;
  let taggedMs = startMs + warmUpMs;
  const tags: Promise<unknown>[] = [];
  try {
    for (;;) {
      fioRuns(fio);
      const link = (await pair.sourceStatus()).links[0]!;
      const nowMs = performance.now();
      if (paused && begin !== undefined) pausedMs += nowMs - lastMs;
      lastMs = nowMs;
      worst = Math.max(worst, stages.indexOf(link.stage ?? 'buffer'));
      bufferBytesPeak = Math.max(bufferBytesPeak, link.bufferBytes);
      const share = link.bufferBytes / bufferBytes;
      if (paused ? share < resumeShare : share > pauseShare) {
        process.kill(fio.pid, paused ? 'SIGCONT' : 'SIGSTOP');
        paused = !paused;
      }
      if (begin === undefined) {
        if (nowMs - startMs < warmUpMs) continue;
        options.onPhase('begin', fio.pid);
        begin = { atMs: nowMs, sequence: link.sequenceDurable };
        continue;
      }
      if (nowMs - taggedMs >= tagEveryMs) {
        taggedMs = nowMs;
        tags.push(pair.source.client.createCheckpoint(pair.group, { kind: 'tagged', label: `bench-${tags.length}` }));
      }
      // Every write has one sequence; the marks between them are too few to matter.
      const durableBytes = (link.sequenceDurable - begin.sequence) * job.blockBytes;
      const elapsed = (nowMs - begin.atMs) / 1000;
      if (elapsed >= seconds && durableBytes >= bytesMin) {
        options.onPhase('end', fio.pid);
        await Promise.all(tags);
        const pausedShare = pausedMs / 1000 / elapsed;
        return { seconds: elapsed, durableBytes, worstStage: stages[worst]!, bufferBytesPeak, pausedShare };
      }
      if (elapsed > limitSeconds * 0.9) throw new Error(`only ${durableBytes} bytes were durable in ${elapsed} s`);
      await sleep(lookEveryMs);
    }
  } finally {
    await fio.kill('SIGKILL');
  }
}

function fioRuns(fio: ManagedProcess): void {
  if (!fio.isRunning) throw new Error(`fio ended early:\n${readFileSync(fio.logFile, 'utf8').slice(-2000)}`);
}
