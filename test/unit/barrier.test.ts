import { describe, expect, test } from '@jest/globals';
import { AckGate } from '../../agent/src/capture/ack-gate.js';
import { TidemarkError } from '../../agent/src/core/errors.js';
import type { Vector } from '../../agent/src/journal/position.js';
import { settingsOf } from '../../agent/src/runtime/target-settings.js';
import { targetGroupSpecSchema } from '../../agent/src/service/group-spec.js';
import { BarrierCoordinator, type BarrierParticipant } from '../../agent/src/target/barrier.js';
import { SimClock } from '../sim/world/sim-clock.js';
import { SimScheduler } from '../sim/world/sim-scheduler.js';

/** One barrier over agents that are so far away; the vector, or why there is none. */
async function barrierOver(oneWayMs: readonly number[], holdMsMax: number): Promise<Vector | TidemarkError> {
  const scheduler = new SimScheduler();
  const clock = new SimClock(scheduler, { monotonicStartMs: 0, wallOffsetMs: () => 0, isAlive: () => true });
  const coordinator = new BarrierCoordinator(clock);
  const participants = oneWayMs.map((delayMs, stream): BarrierParticipant => {
    const gate = new AckGate(clock);
    return {
      stream,
      incarnation: 1,
      hold: ({ barrier, holdMsMax: longest }) =>
        clock.after(delayMs, () => {
          gate.hold(barrier, longest);
          clock.after(delayMs, () => coordinator.held(stream, barrier, 7));
        }),
      release: (barrier) =>
        clock.after(delayMs, () => {
          const unbroken = gate.release(barrier);
          clock.after(delayMs, () => coordinator.released(stream, barrier, unbroken));
        }),
    };
  });
  const request = { barrier: 'b', checkpoint: { id: 'c', kind: 'crash' as const }, holdMsMax };
  const done = coordinator.run(request, participants, 2000).catch((error: unknown) => {
    if (error instanceof TidemarkError) return error;
    throw error;
  });
  await scheduler.run();
  return done;
}

describe('a barrier over agents that are far away', () => {
  test('holds while the round trip is within holdMsMax', async () => {
    expect(await barrierOver([1, 30], 100)).toEqual({
      0: { incarnation: 1, sequence: 7 },
      1: { incarnation: 1, sequence: 7 },
    });
  });

  test('is void beyond it, and says by how much; a longer hold makes it', async () => {
    const broken = await barrierOver([1, 60], 100);
    expect(broken).toMatchObject({ code: 'barrier-broken' });
    expect(String(broken)).toContain('took 120 ms, holdMsMax is 100');
    expect(await barrierOver([1, 60], 240)).toEqual({
      0: { incarnation: 1, sequence: 7 },
      1: { incarnation: 1, sequence: 7 },
    });
  });

  test('ends at once, and lets the others go, when an agent can place no mark', async () => {
    const scheduler = new SimScheduler();
    const clock = new SimClock(scheduler, { monotonicStartMs: 0, wallOffsetMs: () => 0, isAlive: () => true });
    const coordinator = new BarrierCoordinator(clock);
    const released: number[] = [];
    const participants = [0, 1].map((stream): BarrierParticipant => ({
      ...{ stream, incarnation: 1 },
      hold: ({ barrier }) =>
        clock.after(5, () =>
          stream === 0 ? coordinator.held(stream, barrier, 7) : coordinator.released(stream, barrier, false),
        ),
      release: () => released.push(stream),
    }));
    const request = { barrier: 'b', checkpoint: { id: 'c', kind: 'crash' as const }, holdMsMax: 1000 };
    const done = coordinator.run(request, participants, 2000).catch((error: unknown) => {
      expect(clock.monotonicMs()).toBeLessThan(100);
      return String(error);
    });
    await scheduler.run();
    expect(await done).toContain('stream 1 can place no mark now');
    expect(released).toEqual([0, 1]);
  });

  test('a person sets holdMsMax, up to a second', () => {
    const spec = { streams: ['a'], disks: [{ name: 'd', sizeBytes: 512, stream: 'a' }], history: {} };
    const settings = settingsOf(targetGroupSpecSchema.parse({ ...spec, holdMsMax: 240 }), {
      owner: null,
      policyRevision: 1,
    });
    expect(settings.holdMsMax).toBe(240);
    expect(() => targetGroupSpecSchema.parse({ ...spec, holdMsMax: 1001 })).toThrow();
    expect(targetGroupSpecSchema.parse(spec).holdMsMax).toBe(100);
  });
});
