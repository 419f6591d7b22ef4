import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { attachVerdict, backOffMs, letGoCountMax, letGoWindowMs } from '../../agent/src/guard/attach-policy.js';
import { SilenceWatch } from '../../agent/src/guard/silence.js';

const hourMs = letGoWindowMs;
const never = -1;

describe('may a group be attached', () => {
  test('without a let-go: now', () => expect(attachVerdict([], never, 1000)).toEqual({ kind: 'now' }));

  test('backs off, longer the second time', () => {
    expect(attachVerdict([1000], never, 1000)).toEqual({ kind: 'wait', waitMs: backOffMs[0], letGoCount: 1 });
    expect(attachVerdict([1000], never, 1000 + backOffMs[0])).toEqual({ kind: 'now' });
    expect(attachVerdict([1000, 9000], never, 10_000)).toEqual({
      ...{ kind: 'wait', waitMs: backOffMs[1] - 1000, letGoCount: 2 },
    });
    expect(attachVerdict([1000, 9000], never, 9000 + backOffMs[1])).toEqual({ kind: 'now' });
  });

  test('three in an hour: detached, also a day later, until a person attaches', () => {
    const times = [1000, 2000, 1000 + hourMs];
    expect(attachVerdict(times, never, 2 * hourMs)).toEqual({ kind: 'detached', sinceMs: 1000 + hourMs });
    expect(attachVerdict(times, never, 48 * hourMs)).toMatchObject({ kind: 'detached' });
    expect(attachVerdict(times, 1000 + hourMs, 2 * hourMs)).toEqual({ kind: 'now' });
  });

  test('three in more than an hour: not detached', () =>
    expect(attachVerdict([1000, 2000, 1001 + hourMs], never, 3 * hourMs)).toEqual({ kind: 'now' }));

  test('what comes after a person attached counts anew', () =>
    expect(attachVerdict([1, 2, 3, 50, 60], 10, 60)).toMatchObject({ kind: 'wait', letGoCount: 2 }));

  test('a clock that was set back never makes the wait longer than the back-off', () =>
    expect(attachVerdict([hourMs], never, 1000)).toEqual({ kind: 'wait', waitMs: backOffMs[0], letGoCount: 1 }));

  test('detached if and only if some three lie within an hour; the order of records is of no matter', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 10 * hourMs }), { maxLength: 12 }), (times) => {
        const sorted = [...times].sort((a, b) => a - b);
        const close = sorted.some(
          (ms, at) => at >= letGoCountMax - 1 && ms - sorted[at - letGoCountMax + 1]! <= hourMs,
        );
        const nowMs = 20 * hourMs;
        expect(attachVerdict(times, never, nowMs).kind === 'detached').toBe(close);
        expect(attachVerdict([...times].reverse(), never, nowMs)).toEqual(attachVerdict(times, never, nowMs));
      }),
    );
  });
});

describe('silence of an agent', () => {
  test('is the time since the report and the age that was reported', () => {
    const watch = new SilenceWatch(100, 0);
    watch.reported(70, 0);
    for (let ms = 25; ms <= 500; ms += 25) watch.look(ms);
    expect(watch.look(500)).toEqual({ ageMs: 570, sinceReportMs: 500, reportedMs: 70 });
    watch.reported(0, 510);
    expect(watch.look(520).ageMs).toBe(10);
  });

  test('does not count time in which the guard did not run itself', () => {
    const watch = new SilenceWatch(100, 0);
    watch.reported(0, 0);
    expect(watch.look(60_000).ageMs).toBe(100);
    expect(watch.look(60_025).ageMs).toBe(125);
  });
});
