/**
 * A hook makes one application in one guest ready for a checkpoint. Each kind is one small module (`HookModule`); the
 * coordinator (coordinator.ts) calls the steps of all hooks of all VMs of a group in this order:
 *
 * | step | when | what a module does |
 * |---|---|---|
 * | prepare | before the hold, all VMs at once | looks at settings (findings), flushes what can be flushed without holding anybody, opens sessions that must stay open over the hold |
 * | (dead man) | armed in each guest | knows the frozen file systems and the sessions that prepare opened |
 * | quiesce | in the hold, by tier, lowest first (clients), databases last; within a VM in the order of the configuration, fsfreeze last | takes the lock. A lock that is not granted in time is cancelled, never left queued in front of users |
 * | (mark) | all VMs are held | microseconds, in the source agent's memory |
 * | release | in the reverse order, at once | lets go. Runs also when quiesce failed or never ran; must bear both, and running twice |
 * | verify | after every VM was released | proves that the hold was unbroken from quiesce to release |
 * | abandon | in place of verify, or after it, when the point is not `application` after all | optional: ends what needs an end of another kind then |
 * | undo | in a *new* instance, after any death of an agent, before anything else | finds what a hold left behind and ends it. Nothing left is the usual case and no error |
 * | afterRecovery | in a *new* instance, in the recovered VM before its readiness, also in drills; again until it succeeds (recovery/after-recovery.ts) | what the application needs to begin, e.g. to leave backup mode |
 *
 * One instance serves one attempt, from prepare to verify: what it must remember is in its fields. Every step has a deadline
 * (`step.signal` aborts then) and gives it on to every call (`step.leftMs()`). A step throws TidemarkError `hook-failed` or
 * lets the transport's error through: the hold is then called off, everything is released, and the point is `crash`.
 *
 * The point is `application` only when no hook reported a finding and every verify succeeded with `verifiedBy`. A finding is
 * for what breaks the promise while the application works as it wants to: `fsync=off`, data on an unprotected disk. It
 * comes from prepare (the application is not held at all then) or from verify; the point is `crash` with its reason.
 * Never guess in favour of the promise: an answer that the module does not know is a finding or a failure.
 *
 * A module documents itself in `document`; docs/hooks.md is made from it. Statements are listed as they run, each with the
 * vendor's page that says what it does and what it answers.
 *
 * To write one: a file here, its kind in settings.ts, a line in registry.ts, and a test in test/hooks with a `Dialogue`
 * (test/hooks/dialogue.ts): a state machine that rejects statements in a wrong order and plays the vendor's errors. The
 * first is fsfreeze.ts.
 */
import type { Clock } from '../core/clock.js';
import type { GuestAgent } from '../hypervisor/guest-agent.js';
import type { GuestSession } from './guest-session.js';
import type { HookKind, HookSettings } from './settings.js';

/** Why the point cannot be `application`. */
export interface Finding {
  /** Stable kebab-case, e.g. `fsync-off`, `data-unprotected`. */
  readonly code: string;
  /** For a person: what is set how, and what to set. Free of secrets. */
  readonly reason: string;
}

export interface HookStep {
  /** Name of the VM in the group. */
  readonly vm: string;
  readonly guest: GuestSession;
  /** The guest agent itself; undefined when the VM is reached over SSH only. Programs go through `guest`. */
  readonly agent: GuestAgent | undefined;
  /** The guest is Windows: it has PowerShell, and no shell. */
  readonly isWindows: boolean;
  readonly clock: Clock;
  /** Aborts when the deadline of the step has passed or the hold is called off. */
  readonly signal: AbortSignal;
  /** Milliseconds until the deadline of the step, at least 1. */
  leftMs(): number;
  /**
   * `data-unprotected` for each of these paths in the guest that does not lie on a captured disk of this group (another disk,
   * a network file system, memory). To be asked for every path that the application keeps its data in.
   */
  unprotected(paths: readonly string[]): Promise<Finding[]>;
}

export interface Prepared {
  readonly findings: readonly Finding[];
}

export interface Verified {
  readonly findings: readonly Finding[];
  /** How it was proven, for the record of the checkpoint, e.g. `flushed LSN 0/3000060 >= 0/3000028`. */
  readonly verifiedBy: readonly string[];
  /** Numbers and short texts for the record of the checkpoint, free of secrets; names carry their unit (`redoBytes`). */
  readonly facts?: Readonly<Record<string, string | number>>;
}

export interface Hook {
  prepare(step: HookStep): Promise<Prepared>;
  quiesce(step: HookStep): Promise<void>;
  release(step: HookStep): Promise<void>;
  verify(step: HookStep): Promise<Verified>;
  /** Also when prepare failed; must bear running after a verify that succeeded. */
  abandon?(step: HookStep): Promise<void>;
  /** Returns what it ended, in words for an event; empty: nothing was there. */
  undo(step: HookStep): Promise<string[]>;
  afterRecovery(step: HookStep): Promise<void>;
}

/** One statement or call that a module runs. */
export interface HookStatement {
  readonly step: 'prepare' | 'quiesce' | 'release' | 'verify' | 'undo' | 'afterRecovery';
  /** Exactly as it is run; `<…>` stands for what is filled in. */
  readonly statement: string;
  /** What it is for, and which answer is taken for success. */
  readonly why: string;
  /** The vendor's page. */
  readonly source: string;
}

export interface HookDocument {
  /** What an `application` point of this kind promises, and what it does not (e.g. that redo is replayed). */
  readonly promise: string;
  /** Settings and situations that make the point `crash`: the codes of its findings and what they mean. */
  readonly findings: Readonly<Record<string, string>>;
  readonly statements: readonly HookStatement[];
  /** `real`: run against the product in a VM by the tests. `dialogue`: only against a scripted dialogue; the docs say so. */
  readonly testedAgainst: 'real' | 'dialogue';
}

export interface HookModule<Kind extends HookKind = HookKind> {
  readonly kind: Kind;
  readonly document: HookDocument;
  /** A new instance; talks to nobody yet. */
  create(settings: Extract<HookSettings, { kind: Kind }>): Hook;
}
