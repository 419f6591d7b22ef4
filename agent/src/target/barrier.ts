/**
 * Checkpoints across several source agents (design rule 2). Every agent marks and holds later acknowledgements at
 * `hold`; when the last has answered `held`, all are released; the mark counts only if each says at release that its
 * hold was unbroken. Any time-out voids it. A write that depends on another was issued after that one's
 * acknowledgement, so it comes after every mark whenever the other comes after any.
 */
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { CheckpointKind } from '../block/record.js';
import { isPlanted } from '../core/planted.js';
import type { Vector } from '../journal/position.js';

/** One agent's connection, as the barrier sees it. */
export interface BarrierParticipant {
  readonly stream: number;
  readonly incarnation: number;
  hold(request: BarrierRequest): void;
  release(barrier: string): void;
}

export interface BarrierRequest {
  readonly barrier: string;
  readonly checkpoint: { readonly id: string; readonly kind: CheckpointKind; readonly label?: string };
  readonly holdMsMax: number;
}

interface Pending {
  readonly request: BarrierRequest;
  readonly waiting: Map<number, BarrierParticipant>;
  readonly marks: Record<number, { incarnation: number; sequence: number }>;
  readonly participants: readonly BarrierParticipant[];
  phase: 'hold' | 'release';
  readonly startMs: number;
  /** From the request to the last `held`: the slowest agent's round trip. */
  heldAfterMs: number | undefined;
  readonly finish: (error?: Error) => void;
}

/** One barrier at a time for a group. */
export class BarrierCoordinator {
  private pending: Pending | undefined;

  constructor(private readonly clock: Clock) {}

  get busy(): boolean {
    return this.pending !== undefined;
  }

  /** Resolves with the vector of an unbroken barrier; rejects with `barrier-broken`. */
  run(request: BarrierRequest, participants: readonly BarrierParticipant[], timeoutMs: number): Promise<Vector> {
    if (this.pending !== undefined) return Promise.reject(broken(request, 'another barrier is running'));
    return new Promise((resolve, reject) => {
      const timer = this.clock.after(timeoutMs, () =>
        pending.finish(broken(request, 'an agent did not answer in time')),
      );
      const pending: Pending = {
        request,
        participants,
        waiting: new Map(participants.map((participant) => [participant.stream, participant])),
        marks: {},
        phase: 'hold',
        startMs: this.clock.monotonicMs(),
        heldAfterMs: undefined,
        finish: (error) => {
          timer.cancel();
          this.pending = undefined;
          if (error === undefined) resolve(pending.marks);
          else {
            for (const participant of participants) participant.release(request.barrier);
            reject(error);
          }
        },
      };
      this.pending = pending;
      for (const participant of participants) participant.hold(request);
    });
  }

  /** `held` arrived. */
  held(stream: number, barrier: string, sequence: number): void {
    const pending = this.match(barrier, 'hold', stream);
    if (pending === undefined) return;
    const participant = pending.waiting.get(stream) as BarrierParticipant;
    pending.marks[stream] = { incarnation: participant.incarnation, sequence };
    pending.waiting.delete(stream);
    if (pending.waiting.size > 0) return;
    pending.phase = 'release';
    pending.heldAfterMs = this.clock.monotonicMs() - pending.startMs;
    for (const each of pending.participants) {
      pending.waiting.set(each.stream, each);
      each.release(barrier);
    }
  }

  /** `released` arrived; instead of `held`: the agent can place no mark now. */
  released(stream: number, barrier: string, unbroken: boolean): void {
    const refused = unbroken ? undefined : this.match(barrier, 'hold', stream);
    refused?.finish(
      broken(refused.request, `stream ${stream} can place no mark now: it is being synced, or was fenced`),
    );
    const pending = this.match(barrier, 'release', stream);
    if (pending === undefined) return;
    if (!unbroken && !isPlanted('barrier-release-ignored')) {
      const { holdMsMax } = pending.request;
      const tripMs = Math.round(pending.heldAfterMs ?? 0);
      pending.finish(
        broken(
          pending.request,
          `stream ${stream} let acknowledgements go before the release: the round trip to the slowest agent took ${tripMs} ms, holdMsMax is ${holdMsMax}`,
        ),
      );
      return;
    }
    pending.waiting.delete(stream);
    if (pending.waiting.size === 0) pending.finish();
  }

  /** A participant's connection closed. */
  lost(stream: number): void {
    if (this.pending?.participants.some((participant) => participant.stream === stream)) {
      this.pending.finish(broken(this.pending.request, `the connection of stream ${stream} was lost`));
    }
  }

  private match(barrier: string, phase: Pending['phase'], stream: number): Pending | undefined {
    const pending = this.pending;
    if (pending?.request.barrier !== barrier || pending.phase !== phase || !pending.waiting.has(stream))
      return undefined;
    return pending;
  }
}

function broken(request: BarrierRequest, why: string): TidemarkError {
  return new TidemarkError('barrier-broken', `Checkpoint ${request.checkpoint.id} is void: ${why}.`);
}
