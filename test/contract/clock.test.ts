/** What every {@link Clock} must do. */
import { describe, expect, test } from '@jest/globals';
import { sleep, type Clock } from '../../agent/src/core/clock.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { SimWorld } from '../sim/world/sim-world.js';

interface ClockFixture {
  readonly clock: Clock;
  readonly drive: <T>(promise: Promise<T>) => Promise<T>;
}

function describeClock(name: string, create: () => ClockFixture): void {
  describe(`clock contract: ${name}`, () => {
    test('timers fire once, never early, never inside the caller, in the order they are due', async () => {
      const { clock, drive } = create();
      const startMs = clock.monotonicMs();
      const fired: number[] = [];
      const done = new Promise<void>((resolve) => {
        for (const delayMs of [30, 10, 0, 20]) {
          clock.after(delayMs, () => {
            expect(clock.monotonicMs() - startMs).toBeGreaterThanOrEqual(delayMs);
            fired.push(delayMs);
            if (delayMs === 30) resolve();
          });
        }
      });
      expect(fired).toEqual([]);
      await drive(done);
      expect(fired).toEqual([0, 10, 20, 30]);
    });

    test('a cancelled timer never fires; cancelling late is harmless', async () => {
      const { clock, drive } = create();
      let fired = 0;
      const cancelled = clock.after(5, () => (fired += 1));
      cancelled.cancel();
      const early = clock.after(1, () => (fired += 10));
      await drive(sleep(clock, 30));
      early.cancel();
      cancelled.cancel();
      expect(fired).toBe(10);
    });

    test('monotonic time only grows; wall time is milliseconds since 1970', async () => {
      const { clock, drive } = create();
      const before = clock.monotonicMs();
      const wall = clock.wallMs();
      await drive(sleep(clock, 20));
      expect(clock.monotonicMs() - before).toBeGreaterThanOrEqual(20);
      expect(clock.wallMs() - wall).toBeGreaterThanOrEqual(18);
      expect(clock.wallMs()).toBeGreaterThan(1_700_000_000_000);
    });

    test('sleep rejects with the reason when it is aborted', async () => {
      const { clock, drive } = create();
      const abort = new AbortController();
      const asleep = sleep(clock, 60_000, abort.signal);
      clock.after(1, () => abort.abort(new Error('enough')));
      await expect(drive(asleep)).rejects.toThrow('enough');
      await expect(drive(sleep(clock, 1, abort.signal))).rejects.toThrow('enough');
    });
  });
}

describeClock('node', () => ({ clock: nodeClock, drive: (promise) => promise }));

describeClock('simulated', () => {
  const world = new SimWorld(1);
  return { clock: world.addHost('a').start().clock, drive: (promise) => world.drive(promise) };
});
