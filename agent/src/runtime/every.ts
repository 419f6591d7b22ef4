/** Runs work again and again, one run at a time, `intervalMs` after the last has ended. */
import type { Clock, Timer } from '../core/clock.js';

/** Returns how to stop: resolves when the run under way has ended. */
export function every(clock: Clock, intervalMs: number, work: () => Promise<void>): () => Promise<void> {
  let stopped = false;
  let running: Promise<void> = Promise.resolve();
  const arm = (): Timer =>
    clock.after(intervalMs, () => {
      running = work().then(() => {
        if (!stopped) timer = arm();
      });
    });
  let timer = arm();
  return async () => {
    stopped = true;
    timer.cancel();
    await running;
  };
}
