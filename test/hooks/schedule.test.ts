import { describe, expect, test } from '@jest/globals';
import { nextRunMs } from '../../agent/src/hooks/cron.js';
import { decide, missedKept, newState, type ScheduleState } from '../../agent/src/hooks/schedule.js';
import { hookScheduleSchema } from '../../agent/src/hooks/settings.js';

const minuteMs = 60_000;
const startMs = Date.UTC(2026, 10, 23, 12, 0, 30);
const every5 = hookScheduleSchema.parse({ cron: '*/5 * * * *' });
const problems = (schedule: object): string[] =>
  hookScheduleSchema.safeParse(schedule).error?.issues.map(({ path }) => path.join('.')) ?? [];

describe('a schedule', () => {
  test('is read in its time zone, also where the clock changes', () => {
    const berlin = { cron: '30 2 * * *', timeZone: 'Europe/Berlin' };
    expect(new Date(nextRunMs(berlin, Date.UTC(2026, 10, 23))!).toISOString()).toBe('2026-11-23T01:30:00.000Z');
    expect(new Date(nextRunMs(berlin, Date.UTC(2026, 6, 1, 12))!).toISOString()).toBe('2026-07-02T00:30:00.000Z');
    // 2:30 does not exist on that night.
    const spring = nextRunMs(berlin, Date.UTC(2026, 2, 28, 12))!;
    expect(new Date(spring).toISOString().slice(0, 10)).toBe('2026-03-29');
  });

  test('what cannot be is refused', () => {
    expect(problems({ cron: 'now and then' })).toEqual(['cron']);
    expect(problems({ cron: '0 0 31 2 *' })).toEqual(['cron']);
    expect(problems({ cron: '* * * * * *' })).toEqual(['cron']);
    expect(problems({ cron: '* * * * *', timeZone: 'Mars/Olympus' })).toContain('timeZone');
  });

  test('starts one when it is due, and not twice', () => {
    const first = newState(startMs);
    expect(decide(every5, first, startMs + minuteMs, false)).toEqual({ start: false, missed: [], state: first });
    const due = decide(every5, first, startMs + 5 * minuteMs, false);
    expect(due).toMatchObject({ start: true, missed: [] });
    expect(decide(every5, due.state, startMs + 5 * minuteMs + 1000, false).start).toBe(false);
    expect(decide(every5, due.state, startMs + 10 * minuteMs, false).start).toBe(true);
  });

  test('one that runs, and too many in an hour, are left out and counted', () => {
    const busy = decide(every5, newState(startMs), startMs + 5 * minuteMs, true);
    expect(busy).toMatchObject({ start: false, missed: ['running'], state: { missedCount: 1 } });
    const twice = hookScheduleSchema.parse({ cron: '* * * * *', perHourMax: 2 });
    let state: ScheduleState = newState(startMs);
    const started: boolean[] = [];
    for (let minute = 1; minute <= 62; minute++) {
      const next = decide(twice, state, startMs + minute * minuteMs, false);
      started.push(next.start);
      ({ state } = next);
    }
    expect(started.map((start, index) => (start ? index + 1 : 0)).filter((minute) => minute > 0)).toEqual([
      1, 2, 61, 62,
    ]);
    expect(state.missedCount).toBe(58);
    expect(state.missed).toHaveLength(missedKept);
    expect(state.missed.at(-1)?.reason).toBe('per-hour');
  });

  test('what fell into a time without an agent is missed; a due moment just now is not', () => {
    const late = decide(every5, newState(startMs), startMs + 61 * minuteMs, false);
    expect(late.missed).toEqual(Array.from({ length: 12 }, () => 'agent-down'));
    const just = decide(every5, newState(startMs), startMs + 59.6 * minuteMs, false);
    expect(just).toMatchObject({ start: true, state: { missedCount: 11 } });
  });

  test('a clock that was put back does not silence it', () => {
    const state = { ...newState(startMs), doneMs: startMs + 10 * 60 * minuteMs };
    const again = decide(every5, state, startMs, false).state;
    expect(decide(every5, again, startMs + 5 * minuteMs, false).start).toBe(true);
  });
});
