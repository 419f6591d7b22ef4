/**
 * A hold of the VMs of several source agents for one mark, driven by the target: prepare → arm → quiesce by tier over all
 * agents → the barrier's mark → release → verify. Each step takes a round trip; an agent that does not hear of the next one
 * releases by itself (hold-share.ts), and its guests do when it cannot. An answer that does not come is no proof.
 */
import { sleep, type Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { HoldShareState, HoldStepRequest } from '../service/hold-schemas.js';
import type { Reason, StepName } from './held-vm.js';
import type { HoldOutcome } from './hold.js';

export interface HoldMember {
  readonly agent: string;
  step(request: HoldStepRequest): Promise<HoldShareState>;
}

export interface JointHoldOptions<Mark> {
  readonly members: readonly HoldMember[];
  readonly group: string;
  readonly clock: Clock;
  /** Places the mark at every agent; a rejection with `barrier-broken` may be tried again. */
  readonly mark: () => Promise<Mark>;
  readonly signal: AbortSignal;
}

/** Another barrier may be under way, or a round trip took too long once. */
const markTries = 5;
const markAgainMs = 20;

/** Throws `hooks-none` when no agent has hooks of the group, and what `mark` throws when it cannot be placed at all. */
export async function jointHold<Mark>(options: JointHoldOptions<Mark>): Promise<HoldOutcome<Mark>> {
  const hold = new JointHold(options);
  try {
    return await hold.run();
  } finally {
    await hold.end();
  }
}

class JointHold<Mark> {
  readonly #o: JointHoldOptions<Mark>;
  readonly #states = new Map<HoldMember, HoldShareState>();
  readonly #reasons: Reason[] = [];
  /** Agents that prepared, or may have, and have not said that they ended. */
  readonly #begun = new Set<HoldMember>();

  constructor(options: JointHoldOptions<Mark>) {
    this.#o = options;
  }

  async run(): Promise<HoldOutcome<Mark>> {
    const { clock, members, mark } = this.#o;
    await this.#prepare();
    const holders = members.filter((member) => (this.#states.get(member)?.tiers.length ?? 0) > 0);
    if (!this.#failed) await this.#ask(holders, { step: 'arm' });
    const startMs = clock.monotonicMs();
    const heldFromMs = clock.wallMs();
    const wasHeld = !this.#failed;
    let placed: { readonly mark: Mark } | undefined;
    if (wasHeld) {
      for (const tier of this.#tiers) {
        const those = holders.filter((member) => this.#states.get(member)?.tiers.includes(tier));
        if (!this.#failed) await this.#firstFailure(those, { step: 'quiesce', tier });
      }
      if (!this.#failed) placed = await this.#placed(holders, startMs);
      await this.#ask(holders, { step: 'release' });
    }
    const holdMs = wasHeld ? clock.monotonicMs() - startMs : 0;
    await this.#ask([...this.#begun], { step: 'verify', marked: placed !== undefined && this.#all.length === 0 });
    const reasons = this.#all;
    if (placed === undefined && reasons.length === 0)
      reasons.push({ vm: '', step: 'mark', code: 'shutting-down', reason: 'the hold was called off' });
    const states = [...this.#states.values()];
    return {
      mark: placed === undefined ? await mark() : placed.mark,
      ...{ reasons, heldFromMs, holdMs: Math.round(holdMs * 1000) / 1000, thawMs: null },
      vms: states.flatMap(({ vms }) => vms) as HoldOutcome<Mark>['vms'],
      markUs: Math.max(0, ...states.map(({ markUs }) => markUs)),
      flushedBytes: states.reduce((sum, { flushedBytes }) => sum + flushedBytes, 0),
    };
  }

  /** Whatever happened, nobody is left waiting for the next step. */
  async end(): Promise<void> {
    await Promise.allSettled([...this.#begun].map((member) => member.step({ step: 'verify', marked: false })));
  }

  async #prepare(): Promise<void> {
    const { members, group } = this.#o;
    for (const member of members) this.#begun.add(member);
    await this.#ask(members, { step: 'prepare' });
    const states = [...this.#states.values()];
    const present = new Set(states.flatMap((state) => state.present));
    const absent = [...new Set(states.flatMap((state) => state.absent))].filter((vm) => !present.has(vm));
    if (states.length === members.length && present.size + absent.length === 0)
      throw new TidemarkError('hooks-none', `No source agent of ${group} has hooks of it.`, { path: 'kind' });
    for (const vm of absent) {
      const reason = 'it runs at none of the source agents';
      this.#reasons.push({ vm, step: 'prepare', code: 'vm-unknown', reason });
    }
  }

  async #placed(holders: readonly HoldMember[], startMs: number): Promise<{ readonly mark: Mark } | undefined> {
    const { clock, mark, signal } = this.#o;
    const untilMs = startMs + Math.min(...holders.map((member) => this.#states.get(member)?.holdMsMax ?? 0));
    for (let attempt = 1; ; attempt++) {
      try {
        return { mark: await mark() };
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        const again = error.code === 'barrier-broken' && attempt < markTries && clock.monotonicMs() < untilMs;
        if (!again || signal.aborted) {
          this.#fail('mark', error);
          return undefined;
        }
        await sleep(clock, markAgainMs);
      }
    }
  }

  /** Of each agent the newest answer counts; one that does not answer is a reason. */
  async #ask(members: readonly HoldMember[], request: HoldStepRequest): Promise<void> {
    await Promise.all(members.map((member) => this.#askOne(member, request)));
  }

  async #askOne(member: HoldMember, request: HoldStepRequest): Promise<void> {
    try {
      this.#states.set(member, await member.step(request));
      if (request.step === 'verify') this.#begun.delete(member);
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      this.#fail(request.step, new TidemarkError(error.code, `${member.agent}: ${error.message}`));
    }
  }

  /** Resolves when all hold, or as soon as one cannot: the others are released without waiting for them. */
  async #firstFailure(members: readonly HoldMember[], request: HoldStepRequest): Promise<void> {
    const failure = Promise.withResolvers<void>();
    const asking = members.map(async (member) => {
      await this.#askOne(member, request);
      if (this.#failed) failure.resolve();
    });
    await Promise.race([Promise.all(asking), failure.promise]);
  }

  #fail(step: StepName, { code, message }: TidemarkError): void {
    this.#reasons.push({ vm: '', step, code, reason: message });
  }

  get #tiers(): number[] {
    return [...new Set([...this.#states.values()].flatMap(({ tiers }) => tiers))].sort((a, b) => a - b);
  }

  get #all(): Reason[] {
    return [...this.#reasons, ...[...this.#states.values()].flatMap(({ reasons }) => reasons)];
  }

  get #failed(): boolean {
    return this.#o.signal.aborted || this.#all.length > 0;
  }
}
