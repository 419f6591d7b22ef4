/** What the data path takes from the machine besides disk, clock and network: turns, processors, time windows. */
import { cpus } from 'node:os';
import type { ThrottleWindow } from '../config/schema.js';
import type { Scheduler } from '../link/environment.js';
import type { RateAt } from '../link/throttle.js';

/** setImmediate runs after the sockets that are ready were served: acknowledgements come before sending. */
export const turnScheduler: Scheduler = { yield: () => new Promise((resolve) => setImmediate(resolve)) };

const sampleMs = 1000;

/** Share of the processors that was idle over the last second, 0…1; measured when asked, at most once a second. */
export function idleShareMeter(): () => number {
  let last = totals();
  let lastMs = performance.now();
  let share = 0.5;
  return () => {
    const nowMs = performance.now();
    if (nowMs - lastMs < sampleMs) return share;
    const now = totals();
    const all = now.all - last.all;
    if (all > 0) share = (now.idle - last.idle) / all;
    last = now;
    lastMs = nowMs;
    return share;
  };
}

function totals(): { idle: number; all: number } {
  let idle = 0;
  let all = 0;
  for (const { times } of cpus()) {
    idle += times.idle;
    all += times.user + times.nice + times.sys + times.irq + times.idle;
  }
  return { idle, all };
}

const days = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] as const;

/** The first window that holds the moment counts, in the host's time zone; one that ends at or before its start ends the next day. */
export function throttleSchedule(windows: readonly ThrottleWindow[]): RateAt {
  const parsed = windows.map((window) => ({
    ...window,
    fromMinute: minuteOf(window.from),
    toMinute: minuteOf(window.to),
  }));
  return (wallMs) => {
    const date = new Date(wallMs);
    const minute = date.getHours() * 60 + date.getMinutes();
    const today = days[date.getDay()] ?? 'sun';
    const yesterday = days[(date.getDay() + 6) % 7] ?? 'sun';
    const found = parsed.find((window) => {
      const overnight = window.toMinute <= window.fromMinute;
      if (window.days.includes(today) && minute >= window.fromMinute && (overnight || minute < window.toMinute))
        return true;
      return overnight && window.days.includes(yesterday) && minute < window.toMinute;
    });
    return found?.bytesPerSecond;
  };
}

function minuteOf(time: string): number {
  const [hours = 0, minutes = 0] = time.split(':').map(Number);
  return hours * 60 + minutes;
}
