/**
 * Application checkpoints of the source groups here: one at a time for each group. The mark is provisional in the stream
 * (block/record.ts) until every VM proved that it was held; then each target gets the verdict. A proof that does not arrive
 * leaves a crash checkpoint. What an agent that died left held is released before anything else is done with the group.
 */
import type { TagResult } from '../capture/source-group.js';
import { sleep, type Clock } from '../core/clock.js';
import { errorTable, isTidemarkError, TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { randomHex } from '../core/ids.js';
import type { Random } from '../core/random.js';
import { HeldVm, type HookedGuest } from '../hooks/held-vm.js';
import { holdAndMark, type HoldOutcome } from '../hooks/hold.js';
import { hookSettingsSchema, type Hooks } from '../hooks/settings.js';
import type { Checkpoint } from '../service/checkpoint-schemas.js';
import { crashAlert, type Alert } from './crash-alert.js';
import type { HoldRecords } from './hold-records.js';
import { hookedGuests } from './hooked-guests.js';
import type { PeerClients } from './peer-clients.js';
import type { SourceHandle, SourceSide } from './source-side.js';
import type { SourceVms } from './source-vms.js';

export interface ApplicationCheckpointsOptions {
  readonly sources: SourceSide;
  readonly vms: SourceVms;
  readonly records: HoldRecords;
  readonly peers: PeerClients;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
}

/** What a hold ended with. */
export interface Held<T> {
  /** Asked when `run` is over: every guest said that it is released. */
  readonly isReleased: () => boolean;
  readonly result: T | Promise<T>;
}
export type BeginHold = (id: string, vms: readonly string[]) => Promise<void>;

type Outcome = HoldOutcome<readonly TagResult[]>;

/** From one attempt to release what was left to the next. */
const undoAgainMs = 1000;
/** A new checkpoint waits so long for it. */
const undoFirstMs = 5000;

export class ApplicationCheckpoints {
  private readonly running = new Map<string, Promise<unknown>>();
  /** Groups whose left holds are being released, or were. */
  private readonly undone = new Map<string, Promise<void>>();
  private readonly alerts = new Map<string, Alert>();
  private readonly closing = new AbortController();

  constructor(private readonly options: ApplicationCheckpointsOptions) {}

  /** The newest failure of each kind, until one succeeds. */
  alertsOf(group: string): Alert[] {
    return [this.alerts.get(group), this.alerts.get(`${group}/undo`)].filter((alert) => alert !== undefined);
  }

  isRunning(group: string): boolean {
    return this.running.has(group);
  }

  /**
   * Holds, marks, releases, proves; resolves when a target holds mark and verdict durably, with the checkpoint as it became.
   * Throws `hooks-none`, `operation-running`, `illegal-state` when no link takes a checkpoint now, `peer-unreachable`.
   */
  async take(source: SourceHandle, label: string | undefined, timeoutMs: number): Promise<Checkpoint> {
    const { name } = source.group;
    const { hooks } = source.config;
    if (source.group.isShared) return this.askTarget(source, label);
    if (hooks === undefined)
      throw new TidemarkError('hooks-none', `Source group ${name} has no hooks.`, { path: 'kind' });
    return this.holding(name, (begin) => this.attempt(source, hooks, label, timeoutMs, begin));
  }

  /**
   * Runs a hold of the group's VMs: one at a time, after what an earlier one left is released. `begin` is durable before
   * anything is held; a guest that may still be held at the end is looked after until it is not. Throws
   * `operation-running`, `shutting-down`.
   */
  async holding<T>(group: string, run: (begin: BeginHold) => Promise<Held<T>>): Promise<T> {
    if (this.closing.signal.aborted) throw new TidemarkError('shutting-down', 'The agent is stopping.');
    if (this.running.has(group))
      throw new TidemarkError('operation-running', `An application checkpoint of ${group} is being made.`);
    const held = this.recorded(group, run);
    this.running.set(group, held);
    try {
      return await held;
    } finally {
      this.running.delete(group);
    }
  }

  /** Calls off what runs. */
  get signal(): AbortSignal {
    return this.closing.signal;
  }

  /** Releases what an agent that died left held in the group's guests; again and again until every guest answered. */
  undo(group: string): Promise<void> {
    const known = this.undone.get(group);
    if (known !== undefined) return known;
    const run = this.releaseLeft(group).catch((error: unknown) => {
      this.undone.delete(group);
      if (!isTidemarkError(error)) throw error;
    });
    this.undone.set(group, run);
    return run;
  }

  /** Called often: begins to release what is left, of groups that were opened since. */
  tend(): void {
    if (this.closing.signal.aborted) return;
    for (const { group, config } of this.options.sources.list())
      if (config.hooks !== undefined) void this.undo(group.name);
  }

  /** Calls off what runs; resolves when all is released. */
  async close(): Promise<void> {
    this.closing.abort(new TidemarkError('shutting-down', 'The agent is stopping.'));
    await Promise.allSettled([...this.running.values(), ...this.undone.values()]);
  }

  private async recorded<T>(group: string, run: (begin: BeginHold) => Promise<Held<T>>): Promise<T> {
    const { records } = this.options;
    await this.undoFirst(group);
    let left: 'nothing' | 'record' | 'held' = 'nothing';
    try {
      const held = await run(async (id, vms) => {
        await records.begin(group, id, vms);
        left = 'held';
      });
      if (held.isReleased()) left = 'record';
      return await held.result;
    } finally {
      if ((left as string) === 'record') await records.end(group);
      else if ((left as string) === 'held') this.undoAgain(group);
    }
  }

  private async attempt(
    source: SourceHandle,
    hooks: Hooks,
    label: string | undefined,
    timeoutMs: number,
    begin: BeginHold,
  ): Promise<Held<Checkpoint>> {
    const { clock, random, vms } = this.options;
    const { group } = source;
    const id = randomHex(random, 8);
    const guests = hookedGuests(hooks, vms.of(group.name), clock);
    const names = guests.map(({ vm }) => vm);
    await begin(id, names);
    const outcome = await holdAndMark({
      ...{ id, guests, clock, signal: this.closing.signal },
      holdMsMax: hooks.holdSecondsMax * 1000,
      mark: () => group.tag(label, 'application'),
      capturedBytes: () => group.status.capturedBytes,
    });
    this.tell(group.name, outcome);
    const isReleased = !outcome.reasons.some(({ step }) => step === 'release' || step === 'verify');
    return { isReleased: () => isReleased, result: this.conclude(source, outcome, timeoutMs) };
  }

  /** The VMs are held at several source agents: the target drives that, of the first link that is connected. */
  private async askTarget({ group }: SourceHandle, label: string | undefined): Promise<Checkpoint> {
    const target = group.links.find((link) => link.status.connected)?.target;
    if (target === undefined)
      throw new TidemarkError(
        'illegal-state',
        `No link of group ${group.name} can take a checkpoint now: see its links.`,
      );
    const request = { kind: 'application' as const, ...(label === undefined ? {} : { label }) };
    return this.options.peers.use(target, (client) => client.createCheckpoint(group.name, request));
  }

  /** A guest that may still be held is looked after until it is not. */
  private undoAgain(group: string): void {
    this.undone.delete(group);
    if (!this.closing.signal.aborted) void this.undo(group);
  }

  private async undoFirst(group: string): Promise<void> {
    const { clock } = this.options;
    const over = new AbortController();
    const late = sleep(clock, undoFirstMs, over.signal).then(() => {
      throw new TidemarkError(
        'hook-failed',
        `A guest of ${group} may still be held by an earlier application checkpoint.`,
      );
    });
    late.catch(() => undefined);
    try {
      await Promise.race([this.undo(group), late]);
    } finally {
      over.abort();
    }
  }

  private tell(group: string, { mark, reasons, ...told }: Outcome): void {
    const { events, clock } = this.options;
    const checkpoint = mark.find((given) => given.mark !== undefined)?.mark?.id;
    if (reasons.length === 0) {
      events.emit('application-checkpoint', { group, checkpoint, ...told });
      this.alerts.delete(group);
      return;
    }
    events.emit('application-checkpoint-crash', { group, checkpoint, reasons });
    this.alerts.set(group, crashAlert(group, reasons, clock.wallMs()));
  }

  /** Gives the verdict to every link; resolves when one target has all of it durably. */
  private async conclude(source: SourceHandle, outcome: Outcome, timeoutMs: number): Promise<Checkpoint> {
    const { mark, reasons, ...told } = outcome;
    const proven = reasons.length === 0;
    const attributes = { proven, ...told, ...(proven ? {} : { reasons }) };
    const kept = new Map<string, Promise<void>>();
    for (const { target, mark: given } of mark) {
      const link = source.group.links.find((each) => each.target === target);
      if (given === undefined || link === undefined) continue;
      kept.set(target, link.giveVerdict({ checkpoint: given.id, proven, attributes }));
    }
    const late = new AbortController();
    const timer = this.options.clock.after(timeoutMs, () => late.abort());
    try {
      const checkpoint = await source.durable(mark, timeoutMs, async (target) => {
        await Promise.race([kept.get(target), aborted(late.signal)]);
      });
      return { ...checkpoint, kind: proven ? 'application' : 'crash', attributes: { application: attributes } };
    } finally {
      timer.cancel();
    }
  }

  /** Of the agent before this one. */
  private tellBrokenOff(group: string): void {
    const { events, clock } = this.options;
    const reason = 'the agent ended in the middle of its hold';
    events.emit('application-checkpoint-crash', { group, reasons: [{ step: 'verify', code: 'agent-ended', reason }] });
    this.alerts.set(group, {
      code: 'hook-failed',
      message: `The last application checkpoint of ${group} is at most a crash checkpoint: ${reason}`,
      hint: errorTable['hook-failed'].hint,
      sinceMs: clock.wallMs(),
    });
  }

  private async releaseLeft(group: string): Promise<void> {
    const { records, sources, events, clock } = this.options;
    const left = await records.left(group);
    if (left === undefined) return;
    if (!this.alerts.has(group)) this.tellBrokenOff(group);
    const waiting = new Set<string>(left === 'all' ? sources.find(group)?.config.hooks?.vms.map(({ vm }) => vm) : left);
    for (;;) {
      const source = sources.find(group);
      for (const guest of source === undefined ? [] : this.guestsNow(source, waiting)) {
        try {
          const found = await new HeldVm(guest, clock, this.closing.signal).undo();
          waiting.delete(guest.vm);
          if (found.length > 0) events.emit('hold-undone', { group, vm: guest.vm, found });
        } catch (error) {
          if (!isTidemarkError(error)) throw error;
          this.alerts.set(`${group}/undo`, {
            code: error.code,
            message: `${guest.vm} may still be held by an earlier application checkpoint: ${error.message}`,
            hint: errorTable[error.code].hint,
            sinceMs: clock.wallMs(),
          });
        }
      }
      if (waiting.size === 0) break;
      await sleep(clock, undoAgainMs, this.closing.signal);
    }
    await records.end(group);
    this.alerts.delete(`${group}/undo`);
  }

  /** Those of `waiting` that are here and run; one that is off, or gone from the hooks, holds nothing any more. */
  private guestsNow(source: SourceHandle, waiting: Set<string>): HookedGuest[] {
    const { vms, clock } = this.options;
    const attachments = vms.of(source.group.name);
    const hooked = source.config.hooks?.vms ?? [];
    return [...waiting].flatMap((name) => {
      const found = attachments.find(({ vm }) => vm.name === name || vm.uuid === name);
      if (found === undefined || found.state === 'searching') return [];
      const entry = hooked.find(({ vm }) => vm === found.vm.name || vm === found.vm.uuid);
      if (found.state === 'off') {
        waiting.delete(name);
        return [];
      }
      const hooks = entry?.hooks ?? [hookSettingsSchema.parse({ kind: 'fsfreeze' })];
      return hookedGuests({ vms: [{ vm: name, tier: 1, hooks }], holdSecondsMax: 1 }, attachments, clock);
    });
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  const late = new TidemarkError('peer-unreachable', 'The proof of the checkpoint is not durable in time.');
  return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(late), { once: true }));
}
