/** One VM in a hold: its hooks step by step, each with a deadline, its dead man, and what is told of it afterwards. */
import { sleep, type Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { GuestAgent } from '../hypervisor/guest-agent.js';
import { armDeadMan, endDeadMen, type ArmedDeadMan } from './dead-man.js';
import type { GuestSession, HeldSession } from './guest-session.js';
import type { Finding, Hook, HookStep } from './hook.js';
import { createHook, hookModules } from './registry.js';
import type { HookKind, HookSettings } from './settings.js';
import { isWindows } from './vss-settings.js';

export interface HookedGuest {
  readonly vm: string;
  /** Held in this order, released in reverse. */
  readonly tier: number;
  readonly settings: readonly HookSettings[];
  readonly guest: GuestSession;
  readonly agent: GuestAgent | undefined;
  unprotected(paths: readonly string[]): Promise<Finding[]>;
  /** Ends connections; later calls open them again. */
  close(): void;
}

/** Why a point is `crash`. */
export interface Reason extends Finding {
  readonly vm: string;
  readonly step: StepName;
}
export type StepName = 'prepare' | 'arm' | 'quiesce' | 'mark' | 'release' | 'verify';

/** What an application checkpoint keeps of one VM. */
export interface VmRecord {
  readonly vm: string;
  readonly tier: number;
  readonly hooks: readonly HookKind[];
  /** As they are documented, in the order in which they ran. */
  readonly statements: readonly string[];
  readonly prepareMs: number;
  /** From the first quiesce until all its hooks held. */
  readonly quiesceMs: number;
  /** From the first quiesce until all its hooks had released: nobody was held longer. */
  readonly holdMs: number;
  readonly verifiedBy: readonly string[];
  readonly facts: Readonly<Record<string, string | number>>;
}

interface Placed {
  readonly kind: HookKind;
  readonly settings: HookSettings;
  readonly hook: Hook;
  isHeld: boolean;
}

const armMs = 10_000;
const verifyMs = 30_000;
const releaseAgainMs = 100;
const releaseMs = 5000;

export class HeldVm {
  readonly reasons: Reason[] = [];
  readonly #o: HookedGuest;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #sessions: HeldSession[] = [];
  readonly #hooks: Placed[];
  readonly #guest: GuestSession;
  readonly #isWindows: boolean;
  #deadMan: ArmedDeadMan | undefined;
  /** The dead man may let go from here on. */
  deadManMs = Infinity;
  #prepareMs = 0;
  #quiesceFromMs: number | undefined;
  #quiesceMs = 0;
  #holdMs = 0;
  readonly #verifiedBy: string[] = [];
  readonly #facts: Record<string, string | number> = {};

  constructor(options: HookedGuest, clock: Clock, signal: AbortSignal) {
    this.#o = options;
    this.#clock = clock;
    this.#signal = signal;
    this.#isWindows = isWindows(options.settings);
    const placed = options.settings.map((settings) => ({
      ...{ kind: settings.kind, settings, isHeld: false },
      hook: createHook(settings),
    }));
    // While a guest is frozen no program runs in it.
    this.#hooks = [
      ...placed.filter(({ kind }) => kind !== 'fsfreeze'),
      ...placed.filter(({ kind }) => kind === 'fsfreeze'),
    ];
    const { guest } = options;
    this.#guest = {
      transport: guest.transport,
      run: (command, run) => guest.run(command, run),
      open: async (command, run) => {
        const session = await guest.open(command, run);
        this.#sessions.push(session);
        return session;
      },
    };
  }

  get name(): string {
    return this.#o.vm;
  }

  get tier(): number {
    return this.#o.tier;
  }

  async prepare(): Promise<void> {
    const startMs = this.#clock.monotonicMs();
    await this.#trying('prepare', async () => {
      await this.#o.agent?.warm();
      for (const { hook, settings } of this.#hooks) {
        const limitMs = settings.prepareSeconds * 1000;
        const { findings } = await this.#within(limitMs, (step) => hook.prepare(step));
        this.#find('prepare', findings);
      }
    });
    this.#prepareMs = this.#clock.monotonicMs() - startMs;
  }

  /** The guest releases itself `holdMs` from now. Windows does by itself: VSS holds writes for 10 seconds at most. */
  async arm(id: string, holdMs: number): Promise<void> {
    if (this.#isWindows) return;
    const startMs = this.#clock.monotonicMs();
    await this.#trying('arm', async () => {
      const sessions = this.#sessions.map(({ pid }) => pid);
      this.#deadMan = await this.#within(armMs, () => armDeadMan(this.#guest, { id, holdMs, sessions }));
      this.deadManMs = startMs + holdMs;
    });
  }

  /** All hooks, one after the other, until `untilMs` at the latest. */
  async quiesce(untilMs: number): Promise<void> {
    const startMs = this.#clock.monotonicMs();
    this.#quiesceFromMs = startMs;
    await this.#trying('quiesce', async () => {
      for (const placed of this.#hooks) {
        const leftMs = untilMs - this.#clock.monotonicMs();
        const limitMs = Math.min(placed.settings.quiesceSeconds * 1000, leftMs);
        if (limitMs <= 0 || this.#signal.aborted)
          throw new TidemarkError('timed-out', `The hold was over before ${placed.kind} of ${this.name} began.`);
        placed.isHeld = true;
        await this.#within(limitMs, (step) => placed.hook.quiesce(step));
      }
    });
    this.#quiesceMs = this.#clock.monotonicMs() - startMs;
  }

  /** Lets go of all that is held, in reverse, again and again until the dead man does. */
  async release(): Promise<void> {
    await this.#releaseAll();
    if (this.#quiesceFromMs !== undefined) this.#holdMs = this.#clock.monotonicMs() - this.#quiesceFromMs;
  }

  /** The guest agent, for when its last words were read and written. */
  get agent(): GuestAgent | undefined {
    return this.#o.agent;
  }

  /** `wasMarked`: every hook proves its hold. In any case the dead man is cancelled, and what was opened is closed. */
  async verify(wasMarked: boolean): Promise<void> {
    if (wasMarked && this.reasons.length === 0)
      await this.#trying('verify', async () => {
        for (const { hook, kind } of this.#hooks) {
          const { findings, verifiedBy, facts } = await this.#within(verifyMs, (step) => hook.verify(step));
          this.#find('verify', findings);
          if (findings.length === 0 && verifiedBy.length === 0)
            this.#find('verify', [{ code: 'not-verified', reason: `${kind} proves nothing` }]);
          this.#verifiedBy.push(...verifiedBy);
          Object.assign(this.#facts, facts);
        }
      });
    if (!wasMarked || this.reasons.length > 0)
      for (const { hook } of this.#hooks)
        await this.#trying('verify', () => this.#within(verifyMs, (step) => hook.abandon?.(step) ?? Promise.resolve()));
    const deadMan = this.#deadMan;
    if (deadMan !== undefined)
      await this.#trying('verify', async () => {
        if (await this.#within(verifyMs, () => deadMan.cancel()))
          this.#verifiedBy.push('dead man cancelled, not fired');
        else
          this.#find('verify', [
            { code: 'dead-man-fired', reason: 'the guest released itself: its hold took too long' },
          ]);
      });
    // It may have been armed although nothing came back.
    else if (this.reasons.some(({ step }) => step === 'arm')) await endDeadMen(this.#guest).catch(() => undefined);
    for (const session of this.#sessions) await session.close().catch(() => undefined);
    this.#o.close();
  }

  /** What an earlier agent left in the guest is released and ended; returns what there was. */
  async undo(): Promise<string[]> {
    const found: string[] = [];
    // First the state of the guest agent: before, it runs no program.
    for (const { hook } of [...this.#hooks].reverse())
      found.push(...(await this.#within(verifyMs, (step) => hook.undo(step))));
    const count = this.#isWindows ? 0 : await this.#within(verifyMs, () => endDeadMen(this.#guest));
    if (count > 0) found.push(`ended ${count} dead men`);
    this.#o.close();
    return found;
  }

  get record(): VmRecord {
    const kinds = this.#hooks.map(({ kind }) => kind);
    return {
      ...{ vm: this.name, tier: this.tier, hooks: kinds },
      statements: kinds.flatMap((kind) => hookModules[kind].document.statements.map(({ statement }) => statement)),
      ...{ prepareMs: round(this.#prepareMs), quiesceMs: round(this.#quiesceMs), holdMs: round(this.#holdMs) },
      ...{ verifiedBy: this.#verifiedBy, facts: this.#facts },
    };
  }

  async #releaseAll(): Promise<void> {
    for (const placed of [...this.#hooks].reverse()) {
      if (!placed.isHeld) continue;
      const untilMs = Math.min(this.deadManMs, this.#clock.monotonicMs() + 60_000) + releaseMs;
      for (;;) {
        try {
          await this.#within(releaseMs, (step) => placed.hook.release(step), false);
          break;
        } catch (error) {
          this.#fail('release', error);
          if (this.#clock.monotonicMs() > untilMs) break;
          await sleep(this.#clock, releaseAgainMs);
        }
      }
      placed.isHeld = false;
    }
  }

  /** `callOff`: an abort of the hold ends the step; never of a release. */
  async #within<T>(limitMs: number, run: (step: HookStep) => Promise<T>, callOff = true): Promise<T> {
    const { vm, agent } = this.#o;
    const clock = this.#clock;
    const untilMs = clock.monotonicMs() + limitMs;
    const late = new AbortController();
    const signal = callOff ? AbortSignal.any([late.signal, this.#signal]) : late.signal;
    const step: HookStep = {
      ...{ vm, agent, guest: this.#guest, clock, signal, isWindows: this.#isWindows },
      leftMs: () => Math.max(1, untilMs - clock.monotonicMs()),
      unprotected: (paths) => this.#o.unprotected(paths),
    };
    const { promise: over, reject } = Promise.withResolvers<never>();
    const timer = clock.after(limitMs, () =>
      late.abort(new TidemarkError('timed-out', `A step of ${vm} took over ${Math.round(limitMs)} ms.`)),
    );
    const onAbort = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      const running = run(step);
      // It may end after its deadline, when nobody waits for it any more.
      running.catch(() => undefined);
      return await Promise.race([running, over]);
    } finally {
      timer.cancel();
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #trying(step: StepName, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      this.#fail(step, error);
    }
  }

  #fail(step: StepName, error: unknown): void {
    if (!isTidemarkError(error)) throw error;
    const reason = { vm: this.name, step, code: error.code, reason: error.message };
    if (!this.reasons.some((known) => known.step === step && known.code === error.code)) this.reasons.push(reason);
  }

  #find(step: StepName, findings: readonly Finding[]): void {
    for (const { code, reason } of findings) this.reasons.push({ vm: this.name, step, code, reason });
  }
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
