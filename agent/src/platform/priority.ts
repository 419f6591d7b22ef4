/** The main thread acknowledges guests' writes: on a busy host it goes before their processors and its own other threads. */
import { getPriority, setPriority } from 'node:os';
import type { Logger } from '../control/logger.js';

/** As `nice` counts. Of the calling thread only: threads and programs that it starts later inherit it. */
const acknowledging = -10;

/** Call it when the threads of the pool run. Without the right to (RLIMIT_NICE) all stays as it is. */
export function preferAcknowledging(log: Logger): void {
  try {
    setPriority(acknowledging);
  } catch (error) {
    log.info({ event: 'priority-refused', err: error }, 'guests may wait for a processor: LimitNICE is missing');
  }
}

/** A worker thread's first act: whenever the main thread starts it, it has not that thread's precedence. */
export function stepBack(): void {
  if (getPriority() < 0) setPriority(0);
}
