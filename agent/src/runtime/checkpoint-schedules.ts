/**
 * Makes application checkpoints when they are due. What it knows of each group is `DIRECTORY/GROUP.json`, replaced whole
 * before one is started: an agent that dies over it does not start it twice. A damaged record begins anew.
 */
import { z } from 'zod';
import type { SourceGroupConfig } from '../config/schema-groups.js';
import { sleep, type Clock } from '../core/clock.js';
import { isTidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';
import { nextRunMs } from '../hooks/cron.js';
import { decide, newState, withMissed, type ScheduleState } from '../hooks/schedule.js';
import type { HookSchedule } from '../hooks/settings.js';
import type { HooksStatus } from '../service/group-schemas.js';
import type { ApplicationCheckpoints } from './application-checkpoints.js';
import type { SourceHandle, SourceSide } from './source-side.js';

export interface CheckpointSchedulesOptions {
  readonly sources: SourceSide;
  readonly applications: ApplicationCheckpoints;
  readonly storage: Storage;
  readonly directory: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
}

const durableMs = 60_000;
const bytesMax = 64 * 1024;
const reasons = z.enum(['agent-down', 'running', 'per-hour', 'not-taken']);
const stateSchema = z.object({
  doneMs: z.number(),
  missedCount: z.number().int(),
  missed: z.array(z.object({ dueMs: z.number(), reason: reasons })),
  startsMs: z.array(z.number()),
});

export class CheckpointSchedules {
  private readonly states = new Map<string, ScheduleState>();
  private readonly writing = new Mutex();
  private readonly running = new Set<Promise<void>>();
  private readonly closing = new AbortController();

  constructor(private readonly options: CheckpointSchedulesOptions) {}

  /** Called often; one call at a time. */
  async tend(): Promise<void> {
    const { sources, events } = this.options;
    for (const source of sources.list()) {
      const schedule = source.config.hooks?.schedule;
      if (schedule === undefined || this.closing.signal.aborted) continue;
      try {
        await this.look(source, schedule);
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        events.emit('schedule-failed', { group: source.group.name, code: error.code, error: error.message });
      }
    }
  }

  /** As the API shows it; undefined: the group has no hooks. */
  status({ name, hooks }: Pick<SourceGroupConfig, 'name' | 'hooks'>): HooksStatus | undefined {
    if (hooks === undefined) return undefined;
    const state = this.states.get(name);
    const nowMs = this.options.clock.wallMs();
    return {
      vms: hooks.vms.map(({ vm, tier, hooks: all }) => ({ vm, tier, kinds: all.map(({ kind }) => kind) })),
      nextMs: hooks.schedule === undefined ? null : (nextRunMs(hooks.schedule, nowMs) ?? null),
      running: this.options.applications.isRunning(name),
      missedCount: state?.missedCount ?? 0,
      missed: [...(state?.missed ?? [])],
    };
  }

  async close(): Promise<void> {
    this.closing.abort();
    await Promise.allSettled(this.running);
  }

  private async look(source: SourceHandle, schedule: HookSchedule): Promise<void> {
    const { clock, applications, events } = this.options;
    const { name } = source.group;
    const nowMs = clock.wallMs();
    const before = this.states.get(name) ?? (await this.load(name));
    const { start, missed, state } = decide(schedule, before, nowMs, applications.isRunning(name));
    if (state !== before || !this.states.has(name)) await this.save(name, state);
    if (missed.length > 0)
      events.emit('application-checkpoint-missed', { group: name, count: missed.length, reason: missed.at(-1) });
    if (!start) return;
    const run = this.make(source, schedule, state.doneMs).finally(() => this.running.delete(run));
    this.running.add(run);
  }

  private async make(source: SourceHandle, { jitterSeconds }: HookSchedule, dueMs: number): Promise<void> {
    const { clock, random, applications, events } = this.options;
    const { name } = source.group;
    try {
      await sleep(clock, random.float() * jitterSeconds * 1000, this.closing.signal);
      await applications.take(source, undefined, durableMs);
    } catch (error) {
      if (this.closing.signal.aborted) return;
      if (!isTidemarkError(error)) throw error;
      events.emit('application-checkpoint-missed', { group: name, count: 1, reason: error.message });
      const state = this.states.get(name);
      if (state !== undefined) await this.save(name, withMissed(state, dueMs, 'not-taken'));
    }
  }

  private async load(name: string): Promise<ScheduleState> {
    const { storage, directory, clock } = this.options;
    const fresh = newState(clock.wallMs());
    try {
      const text = await readWhole(storage, `${directory}/${name}.json`, bytesMax);
      const parsed = stateSchema.safeParse(JSON.parse(text ?? 'null'));
      return parsed.success ? parsed.data : fresh;
    } catch (error) {
      if (isTidemarkError(error, 'storage-not-found') || error instanceof SyntaxError) return fresh;
      throw error;
    }
  }

  private async save(name: string, state: ScheduleState): Promise<void> {
    const { storage, directory } = this.options;
    this.states.set(name, state);
    await this.writing.run(async () => {
      await storage.makeDirectory(directory);
      await writeWhole(storage, directory, `${name}.json`, `${JSON.stringify(state)}\n`);
    });
  }
}
