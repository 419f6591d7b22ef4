/**
 * One source agent's share of a hold over several source agents; joint-hold.ts, at the target, asks for its steps. Whoever
 * asks or does not, the share lets go by itself when its time is over, and ends when it is not asked any more.
 */
import type { Clock, Timer } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { HoldShareState, HoldStepRequest } from '../service/hold-schemas.js';
import { HeldVm, type HookedGuest, type Reason } from './held-vm.js';
import { deadManMarginMs, deadManSpareMs, firstFailure, releaseInReverse, tiersOf } from './hold.js';

export interface HoldShareOptions {
  /** Unique; names the dead men. */
  readonly id: string;
  readonly guests: readonly HookedGuest[];
  /** Names and UUIDs of their VMs. */
  readonly present: readonly string[];
  /** VMs with hooks that do not run here. */
  readonly absent: readonly string[];
  readonly clock: Clock;
  /** From the first quiesce to the release. */
  readonly holdMsMax: number;
  /** All that the group has captured here up to now. */
  readonly capturedBytes: () => number;
  /** Time that the newest mark took. */
  readonly markUs: () => number;
  /** Calls the hold off. */
  readonly signal: AbortSignal;
}

type Phase = 'new' | 'prepared' | 'armed' | 'released' | 'ended';

/** Another agent may prepare for as long as a hook can be given. */
const preparedIdleMs = 620_000;
/** The next step comes within a hold's time, or the target is gone. */
const idleSpareMs = 30_000;

export class HoldShare {
  readonly #o: HoldShareOptions;
  readonly #vms: readonly HeldVm[];
  readonly #reasons: Reason[] = [];
  readonly #over = Promise.withResolvers<void>();
  readonly #calledOff = (): void => void this.#end(false);
  #phase: Phase = 'new';
  #untilMs = Infinity;
  #bytesBefore = 0;
  #flushedBytes = 0;
  #markUs = 0;
  #limit: Timer | undefined;
  #idle: Timer | undefined;
  #releasing: Promise<void> | undefined;
  #ending: Promise<void> | undefined;
  #isProven = false;

  constructor(options: HoldShareOptions) {
    this.#o = options;
    this.#vms = options.guests.map((guest) => new HeldVm(guest, options.clock, options.signal));
    options.signal.addEventListener('abort', this.#calledOff, { once: true });
  }

  /** Resolves when nothing is held and no more steps are taken. */
  get ended(): Promise<void> {
    return this.#over.promise;
  }

  /** Every guest said that it is released. */
  get isReleased(): boolean {
    return !this.#all.some(({ step }) => step === 'release' || step === 'verify');
  }

  /** Throws `illegal-state` for a step that does not come next. */
  async step(request: HoldStepRequest): Promise<HoldShareState> {
    this.#idle?.cancel();
    try {
      await this.#run(request);
    } finally {
      if (this.#ending === undefined) this.#waitForNext();
    }
    return this.#state;
  }

  async #run(request: HoldStepRequest): Promise<void> {
    switch (request.step) {
      case 'prepare':
        this.#expect('new', request.step);
        this.#phase = 'prepared';
        await this.#each((vm) => vm.prepare());
        return;
      case 'arm':
        this.#expect('prepared', request.step);
        this.#phase = 'armed';
        await this.#each((vm) => vm.arm(this.#o.id, this.#o.holdMsMax + deadManSpareMs));
        return;
      case 'quiesce':
        this.#expect('armed', request.step);
        return this.#quiesce(request.tier);
      case 'release':
        return this.#release();
      case 'verify':
        await this.#end(request.marked);
        if (request.marked && !this.#isProven)
          throw new TidemarkError('illegal-state', 'The hold had ended before its proof was asked for.');
    }
  }

  async #quiesce(tier: number): Promise<void> {
    if (this.#untilMs === Infinity) this.#begin();
    const vms = this.#vms.filter((vm) => vm.tier === tier);
    if (this.#all.length === 0) await firstFailure(vms, (vm) => vm.quiesce(this.#untilMs));
  }

  #begin(): void {
    const { clock, holdMsMax, capturedBytes } = this.#o;
    const nowMs = clock.monotonicMs();
    this.#untilMs = Math.min(nowMs + holdMsMax, ...this.#vms.map(({ deadManMs }) => deadManMs - deadManMarginMs));
    this.#bytesBefore = capturedBytes();
    this.#limit = clock.after(Math.max(0, this.#untilMs - nowMs), () => {
      const reason = `the hold took over ${holdMsMax} ms, and was released before the target asked`;
      this.#reasons.push({ vm: '', step: 'mark', code: 'held-too-long', reason });
      void this.#release();
    });
  }

  #release(): Promise<void> {
    this.#releasing ??= this.#letGo();
    return this.#releasing;
  }

  async #letGo(): Promise<void> {
    const { clock, capturedBytes, markUs } = this.#o;
    this.#limit?.cancel();
    this.#phase = 'released';
    this.#markUs = markUs();
    if (this.#untilMs === Infinity) return;
    this.#flushedBytes = capturedBytes() - this.#bytesBefore;
    await releaseInReverse(this.#vms, clock);
  }

  #end(marked: boolean): Promise<void> {
    this.#ending ??= this.#finish(marked);
    return this.#ending;
  }

  async #finish(marked: boolean): Promise<void> {
    await this.#release();
    this.#phase = 'ended';
    this.#idle?.cancel();
    this.#o.signal.removeEventListener('abort', this.#calledOff);
    try {
      await this.#each((vm) => vm.verify(marked && this.#reasons.length === 0));
      this.#isProven = marked;
    } finally {
      this.#over.resolve();
    }
  }

  #waitForNext(): void {
    const { clock, holdMsMax } = this.#o;
    this.#idle?.cancel();
    const waitMs = this.#phase === 'prepared' ? preparedIdleMs : holdMsMax + deadManSpareMs + idleSpareMs;
    this.#idle = clock.after(waitMs, () => void this.#end(false));
  }

  #each(run: (vm: HeldVm) => Promise<void>): Promise<unknown> {
    return Promise.all(this.#vms.map(run));
  }

  #expect(phase: Phase, step: string): void {
    if (this.#phase !== phase)
      throw new TidemarkError('illegal-state', `The hold is ${this.#phase}; ${step} is not its next step.`);
  }

  get #all(): Reason[] {
    return [...this.#reasons, ...this.#vms.flatMap(({ reasons }) => reasons)];
  }

  get #state(): HoldShareState {
    const { holdMsMax, present, absent } = this.#o;
    return {
      holdMsMax,
      tiers: tiersOf(this.#vms).map(([first]) => first!.tier),
      ...{ present: [...present], absent: [...absent], reasons: this.#all },
      vms: this.#vms.map(({ record }) => ({
        ...record,
        ...{ hooks: [...record.hooks], statements: [...record.statements], verifiedBy: [...record.verifiedBy] },
      })),
      ...{ markUs: this.#markUs, flushedBytes: this.#flushedBytes },
    };
  }
}
