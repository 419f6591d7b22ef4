/**
 * A hold of all hooked VMs of a group for one mark (design rule 4): prepare → dead men → quiesce by tier → mark → release in
 * reverse → verify. All VMs are held at the same time only for the mark. Whatever fails, everything that may be held is
 * released; the mark is then placed without a hold, or stands without proof, and says why it is only `crash`.
 */
import { sleep, type Clock } from '../core/clock.js';
import { HeldVm, type HookedGuest, type Reason, type VmRecord } from './held-vm.js';

export interface HoldOptions<Mark> {
  /** Unique; names the dead men. */
  readonly id: string;
  readonly guests: readonly HookedGuest[];
  readonly clock: Clock;
  /** From the first quiesce to the mark. */
  readonly holdMsMax: number;
  /** Places the mark: synchronous, in memory. */
  readonly mark: () => Mark;
  /** All that the group has captured up to now. */
  readonly capturedBytes: () => number;
  /** Calls the hold off; everything is released as after a failure. */
  readonly signal: AbortSignal;
  /** Before each step; rejecting fails it. For tests. */
  readonly onStep?: (step: 'arm' | 'quiesce' | 'mark' | 'release' | 'verify') => Promise<void> | void;
}

export interface HoldOutcome<Mark> {
  readonly mark: Mark;
  /** Empty: every VM proved that it was held at the mark. */
  readonly reasons: readonly Reason[];
  readonly vms: readonly VmRecord[];
  /** The first quiesce, wall clock. */
  readonly heldFromMs: number;
  /** Milliseconds from the first quiesce to the last release; 0: nobody was held. */
  readonly holdMs: number;
  readonly markUs: number;
  /** From the moment that the last guest agent's reply could be read until the first thaw was written; null: none was. */
  readonly thawMs: number | null;
  /** Written by the guests of the group from the first quiesce to the mark: what the quiesce flushed, and what came meanwhile. */
  readonly flushedBytes: number;
}

/** The dead man's time beyond the hold's limit: agents that live never need it. */
export const deadManSpareMs = 5000;
/** The tier before is waited for so long before the next one is released, too. */
const tierMs = 1000;
/** Before the dead man may fire, nothing is marked any more. */
export const deadManMarginMs = 500;

export async function holdAndMark<Mark>(options: HoldOptions<Mark>): Promise<HoldOutcome<Mark>> {
  const { clock, holdMsMax, id, signal, capturedBytes, onStep } = options;
  const vms = options.guests.map((guest) => new HeldVm(guest, clock, signal));
  const failed = (): boolean => signal.aborted || vms.some(({ reasons }) => reasons.length > 0);
  const all = (run: (vm: HeldVm) => Promise<void>): Promise<unknown> => Promise.all(vms.map(run));

  await all((vm) => vm.prepare());
  if (!failed()) {
    await onStep?.('arm');
    await all((vm) => vm.arm(id, holdMsMax + deadManSpareMs));
  }
  const startMs = clock.monotonicMs();
  const heldFromMs = clock.wallMs();
  const bytesBefore = capturedBytes();
  const untilMs = Math.min(startMs + holdMsMax, ...vms.map(({ deadManMs }) => deadManMs - deadManMarginMs));
  let placed: { readonly mark: Mark; readonly markUs: number } | undefined;
  let flushedBytes = 0;
  let thawMs: number | null = null;
  let markFailure: unknown;
  const wasHeld = !failed();
  if (wasHeld) {
    await onStep?.('quiesce');
    for (const tier of tiersOf(vms)) {
      if (failed()) break;
      await firstFailure(tier, (vm) => vm.quiesce(untilMs));
    }
    await onStep?.('mark');
    if (!failed() && clock.monotonicMs() < untilMs)
      try {
        flushedBytes = capturedBytes() - bytesBefore;
        placed = markNow(options);
      } catch (error) {
        markFailure = error;
      }
    const repliedMs = Math.max(...vms.map(({ agent }) => agent?.repliedMs ?? -Infinity));
    const releasing = releaseInReverse(vms, clock);
    // The thaws of the first tier are written by now: nothing is waited for before.
    const writtenMs = Math.min(...vms.map(({ agent }) => agent?.writtenMs ?? Infinity).filter((at) => at >= repliedMs));
    if (placed !== undefined && Number.isFinite(writtenMs - repliedMs)) thawMs = round(writtenMs - repliedMs);
    await onStep?.('release');
    await releasing;
  }
  const holdMs = wasHeld ? clock.monotonicMs() - startMs : 0;
  await onStep?.('verify');
  await all((vm) => vm.verify(placed !== undefined));
  if (markFailure !== undefined) throw markFailure as Error;
  const reasons = vms.flatMap((vm) => vm.reasons);
  if (placed === undefined && reasons.length === 0)
    reasons.push({ vm: '', step: 'mark', ...{ code: 'held-too-long', reason: `the hold took over ${holdMsMax} ms` } });
  const { mark, markUs } = placed ?? markNow(options);
  const records = vms.map((vm) => vm.record);
  return { ...{ mark, markUs, thawMs, reasons, heldFromMs, flushedBytes }, vms: records, holdMs: round(holdMs) };
}

function markNow<Mark>({ mark, clock }: HoldOptions<Mark>): { mark: Mark; markUs: number } {
  const startMs = clock.monotonicMs();
  const placed = mark();
  return { mark: placed, markUs: Math.round((clock.monotonicMs() - startMs) * 1000) };
}

export function tiersOf(vms: readonly HeldVm[]): HeldVm[][] {
  const tiers = [...new Set(vms.map(({ tier }) => tier))].sort((a, b) => a - b);
  return tiers.map((tier) => vms.filter((vm) => vm.tier === tier));
}

/** All at once; resolves when all held, or as soon as one failed: the others are released without waiting for them. */
export async function firstFailure(vms: readonly HeldVm[], run: (vm: HeldVm) => Promise<void>): Promise<void> {
  const failure = Promise.withResolvers<void>();
  const running = vms.map(async (vm) => {
    await run(vm);
    if (vm.reasons.length > 0) failure.resolve();
  });
  await Promise.race([Promise.all(running), failure.promise]);
}

export async function releaseInReverse(vms: readonly HeldVm[], clock: Clock): Promise<void> {
  const running: Promise<void>[] = [];
  for (const tier of tiersOf(vms).reverse()) {
    const released = Promise.all(tier.map((vm) => vm.release())).then(() => undefined);
    running.push(released);
    const done = new AbortController();
    const waited = sleep(clock, tierMs, done.signal).catch(() => undefined);
    await Promise.race([released, waited]);
    done.abort();
  }
  await Promise.all(running);
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
