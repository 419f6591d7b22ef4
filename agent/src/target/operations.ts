/**
 * Operations of a group as durable steps in its manifest. A step's record is written when the step is done; after a kill
 * the operation goes on behind its last record, so every step may run twice and must be idempotent.
 *
 * `started` is the first record: the choice that `prepare` made is in its result. `done`, `failed` and `cancelled` are
 * the last. A transition that fails in the middle is not over: the same request, or a restart, goes on with it.
 */
import type { Mutex } from '../core/mutex.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { GroupContext } from './context.js';
import type { ManifestRecord } from './manifest-records.js';

export type OperationRecord = Extract<ManifestRecord, { type: 'operation' }>;
export type OperationResult = Record<string, unknown>;

/** What a running step gets. */
export interface StepContext {
  readonly group: GroupContext;
  readonly record: OperationRecord;
  /** Aborted by cancel; a step that may not stop ignores it. */
  readonly signal: AbortSignal;
  progress(doneBytes: number, totalBytes: number): void;
}

export interface OperationStep {
  readonly name: string;
  /** Works on VMs, whose disks are served only when the group is open: a restart does not wait for it. */
  readonly background?: boolean;
  /** A failure here ends the operation as failed although its plan must finish: what was done before stays. */
  readonly mayFail?: boolean;
  /** What it returns is merged into the result, durable with the step's record. */
  run(context: StepContext): Promise<OperationResult>;
}

export interface OperationPlan {
  /** Checks and chooses under the group's lock, before anything is recorded. */
  prepare(group: GroupContext, args: Record<string, unknown>, id: string): Promise<OperationResult>;
  readonly steps: readonly OperationStep[];
  /** A failure leaves it unfinished instead of failed: it must be gone on with. */
  readonly mustFinish: boolean;
  /** Two of these never run at the same time in a group. */
  readonly exclusive: boolean;
}

export interface OperationStart {
  readonly id: string;
  readonly kind: string;
  readonly arguments: Record<string, unknown>;
  readonly drivenBy: string;
}

/** An operation under way in this process. */
export interface RunningOperation {
  record: OperationRecord;
  readonly abort: AbortController;
  readonly ended: Promise<OperationRecord>;
  /** Resolves when a restart needs to wait no longer: at its end, or at its first step in the background. */
  readonly settled: Promise<void>;
  /** The step that runs now. */
  current: OperationStep | undefined;
  /** `fromBytes` was done at `sinceMs`. */
  progress: { doneBytes: number; totalBytes: number; fromBytes: number; sinceMs: number } | undefined;
  revision: number;
}

const ended = new Set(['done', 'failed', 'cancelled']);

/** True when the record is the last of its operation. */
export function hasEnded(record: OperationRecord): boolean {
  return ended.has(record.step);
}

export class Operations {
  private readonly active = new Map<string, RunningOperation>();
  private readonly watchers = new Set<() => void>();

  constructor(
    private readonly group: GroupContext,
    private readonly plans: ReadonlyMap<string, OperationPlan>,
    private readonly lock: Mutex,
  ) {}

  running(): RunningOperation[] {
    return [...this.active.values()];
  }

  /** Called whenever an operation moved. Returns the way to stop. */
  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  /** The same id with the same kind and arguments is the same operation. Resolves when its start is durable. */
  async start(request: OperationStart): Promise<RunningOperation | OperationRecord> {
    const plan = this.planOf(request.kind);
    const record = await this.lock.run(async () => {
      const known = this.group.manifest.state.operations.get(request.id);
      if (known !== undefined) {
        if (known.kind === request.kind && JSON.stringify(known.arguments) === JSON.stringify(request.arguments))
          return known;
        throw new TidemarkError(
          'operation-conflict',
          `Operation ${request.id} was a ${known.kind} with other arguments.`,
        );
      }
      const holder = plan.exclusive ? this.exclusiveHolder() : undefined;
      if (holder !== undefined)
        throw new TidemarkError('operation-running', `Operation ${holder} holds group ${this.group.name}.`);
      const result = await plan.prepare(this.group, request.arguments, request.id);
      return this.record({ ...request, step: 'started', result, startedMs: this.group.clock.wallMs() });
    });
    return hasEnded(record) ? record : this.drive(record, plan);
  }

  /** As {@link start}, and waits for the end. */
  async run(request: OperationStart): Promise<OperationRecord> {
    const started = await this.start(request);
    return 'ended' in started ? started.ended : started;
  }

  /** Goes on with every operation that a kill cut short. Resolves when the transitions among them have ended. */
  async resume(): Promise<void> {
    const runs = this.unfinished.map((record) => {
      const plan = this.planOf(record.kind);
      return { plan, running: this.drive(record, plan) };
    });
    for (const { plan, running } of runs) if (plan.mustFinish) await running.settled;
  }

  /** Those without an end, running or not. */
  get unfinished(): OperationRecord[] {
    return [...this.group.manifest.state.operations.values()].filter((record) => !hasEnded(record));
  }

  /** True when one that has no end does not run: it failed and must be gone on with. */
  get stalled(): boolean {
    return this.unfinished.some(({ id }) => !this.active.has(id));
  }

  /** Asks it to stop; a transition cannot. */
  cancel(id: string): void {
    const running = this.active.get(id);
    if (running === undefined) return;
    if (this.planOf(running.record.kind).mustFinish && running.current?.mayFail !== true) {
      throw new TidemarkError(
        'illegal-state',
        `Operation ${id} (${running.record.kind}) cannot be stopped once it started.`,
      );
    }
    running.abort.abort(new TidemarkError('shutting-down', `Operation ${id} was cancelled.`));
  }

  private exclusiveHolder(): string | undefined {
    return this.unfinished.find(({ kind }) => this.planOf(kind).exclusive)?.id;
  }

  private planOf(kind: string): OperationPlan {
    const plan = this.plans.get(kind);
    if (plan === undefined)
      throw new TidemarkError('request-invalid', `There is no operation ${kind}.`, { path: 'kind' });
    return plan;
  }

  private drive(record: OperationRecord, plan: OperationPlan): RunningOperation {
    const known = this.active.get(record.id);
    if (known !== undefined) return known;
    const abort = new AbortController();
    const { promise, resolve, reject } = Promise.withResolvers<OperationRecord>();
    // The end is also in the manifest and in the events: nobody has to wait for it.
    promise.catch(() => undefined);
    const settled = Promise.withResolvers<void>();
    const running: RunningOperation = {
      record,
      abort,
      ended: promise,
      settled: settled.promise,
      current: undefined,
      progress: undefined,
      revision: 1,
    };
    this.active.set(record.id, running);
    this.runSteps(running, plan, settled.resolve).then(
      (last) => {
        this.active.delete(record.id);
        settled.resolve();
        resolve(last);
        this.moved(running);
      },
      (error: unknown) => {
        this.active.delete(record.id);
        settled.resolve();
        reject(error as Error);
        this.moved(running);
      },
    );
    return running;
  }

  private async runSteps(running: RunningOperation, plan: OperationPlan, settle: () => void): Promise<OperationRecord> {
    const { group } = this;
    const from = plan.steps.findIndex((step) => step.name === running.record.step) + 1;
    try {
      for (const step of plan.steps.slice(from)) {
        running.current = step;
        running.progress = undefined;
        if (step.background === true) settle();
        const result = await step.run({
          group,
          record: running.record,
          signal: running.abort.signal,
          progress: (doneBytes, totalBytes) => {
            const first = { sinceMs: group.clock.monotonicMs(), fromBytes: doneBytes };
            running.progress = { ...first, ...running.progress, doneBytes, totalBytes };
            this.moved(running);
          },
        });
        await this.advance(running, step.name, result);
      }
      await this.advance(running, 'done', {});
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      const { code, message } = error;
      // The agent ends: it goes on where it was at the next start.
      if (code === 'shutting-down' && !running.abort.signal.aborted) throw error;
      group.events.emit('operation-failed', {
        group: group.name,
        operation: running.record.id,
        step: running.record.step,
        code,
        error: message,
      });
      if (plan.mustFinish && running.current?.mayFail !== true) throw error;
      await this.advance(running, running.abort.signal.aborted ? 'cancelled' : 'failed', {
        error: { code, message, path: error.path ?? null },
      });
      throw error;
    }
    group.events.emit('operation-done', { group: group.name, operation: running.record.id, kind: running.record.kind });
    return running.record;
  }

  private async advance(running: RunningOperation, step: string, result: OperationResult): Promise<void> {
    const { type: _type, wallMs: _wallMs, ...rest } = running.record;
    running.record = await this.record({ ...rest, step, result: { ...rest.result, ...result } });
    this.moved(running);
  }

  private moved(running: RunningOperation): void {
    running.revision++;
    for (const watcher of [...this.watchers]) watcher();
  }

  private async record(fields: Omit<OperationRecord, 'type' | 'wallMs'>): Promise<OperationRecord> {
    const record: OperationRecord = { ...fields, type: 'operation', wallMs: this.group.clock.wallMs() };
    await this.group.manifest.append(record);
    return record;
  }
}
