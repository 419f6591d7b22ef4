import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Clock } from '../../agent/src/core/clock.js';
import { TidemarkError } from '../../agent/src/core/errors.js';
import { hooksSchema } from '../../agent/src/hooks/settings.js';
import { nodeRandom } from '../../agent/src/platform/node-random.js';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import type { ApplicationCheckpoints } from '../../agent/src/runtime/application-checkpoints.js';
import { CheckpointSchedules } from '../../agent/src/runtime/checkpoint-schedules.js';
import type { SourceSide } from '../../agent/src/runtime/source-side.js';

const minuteMs = 60_000;

/** A wall clock that stands until it is moved; timers fire at once. */
class StandingClock implements Clock {
  nowMs = Date.UTC(2026, 10, 23, 12, 0, 10);

  monotonicMs(): number {
    return this.nowMs;
  }

  wallMs(): number {
    return this.nowMs;
  }

  after(_delayMs: number, fire: () => void): { cancel(): void } {
    const handle = setImmediate(fire);
    return { cancel: () => clearImmediate(handle) };
  }
}

const hooks = hooksSchema.parse({
  vms: [{ vm: 'db', hooks: [{ kind: 'fsfreeze' }] }],
  schedule: { cron: '* * * * *', jitterSeconds: 5 },
});
const config = { name: 'erp', hooks };

describe('scheduled application checkpoints', () => {
  let directory: string;
  let clock: StandingClock;
  let events: string[];
  let taken: number;
  let fails: boolean;
  let isRunning: boolean;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'tidemark-schedules-'));
    [clock, events, taken, fails, isRunning] = [new StandingClock(), [], 0, false, false];
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  function open(): CheckpointSchedules {
    const sources = { list: () => [{ group: { name: 'erp' }, config }] } as unknown as SourceSide;
    const applications = {
      isRunning: () => isRunning,
      take: () => {
        taken++;
        return fails ? Promise.reject(new TidemarkError('illegal-state', 'no link')) : Promise.resolve();
      },
    } as unknown as ApplicationCheckpoints;
    return new CheckpointSchedules({
      ...{ sources, applications, clock, random: nodeRandom, storage: new NodeStorage(), directory },
      events: { emit: (code, fields) => events.push(`${code} ${String(fields['reason'])}`) },
    });
  }

  async function minutes(schedules: CheckpointSchedules, count: number): Promise<void> {
    for (let minute = 0; minute < count; minute++) {
      clock.nowMs += minuteMs;
      await schedules.tend();
    }
    await schedules.close();
  }

  test('are made when they are due; those that fail or collide are told and counted', async () => {
    const first = open();
    await first.tend();
    expect(first.status(config)).toMatchObject({ nextMs: Date.UTC(2026, 10, 23, 12, 1), missedCount: 0 });
    clock.nowMs += minuteMs;
    await first.tend();
    isRunning = true;
    clock.nowMs += minuteMs;
    await first.tend();
    isRunning = false;
    fails = true;
    await minutes(first, 1);
    expect(taken).toBeGreaterThanOrEqual(1);
    const { missed = [], missedCount = 0 } = first.status(config) ?? {};
    expect(missedCount).toBe(missed.length);
    expect(missed.map(({ reason }) => reason)).toContain('running');
    expect(events).toContain('application-checkpoint-missed running');
  });

  test('an agent that starts knows what it missed while it was down', async () => {
    const before = open();
    await before.tend();
    await before.close();
    expect(readdirSync(directory)).toEqual(['erp.json']);
    clock.nowMs += 10 * minuteMs;
    const after = open();
    await after.tend();
    await after.close();
    expect(after.status(config)).toMatchObject({ missedCount: 9, missed: expect.arrayContaining([]) });
    expect(events).toEqual(['application-checkpoint-missed agent-down']);
  });

  test('a group without a schedule has hooks to show, and nothing is due', async () => {
    const { schedule: _, ...unscheduled } = hooks;
    const shown = open().status({ name: 'erp', hooks: unscheduled });
    expect(shown).toMatchObject({ nextMs: null, vms: [{ vm: 'db', tier: 1, kinds: ['fsfreeze'] }] });
    expect(open().status({ name: 'erp' })).toBeUndefined();
  });
});
