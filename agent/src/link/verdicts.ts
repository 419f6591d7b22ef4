/**
 * Verdicts over provisional marks on the way to one target: each is sent at once and at every connection, until the target
 * says that it is durable. They live in memory: an agent that dies loses them, and those points stay crash checkpoints.
 */
import { TidemarkError } from '../core/errors.js';
import type { Verdict } from '../stream/messages.js';
import type { Session } from './session.js';

interface Waiting {
  readonly verdict: Verdict;
  readonly kept: PromiseWithResolvers<void>;
}

/** Older ones are given up: a target that is away so long gets crash checkpoints. */
const waitingCountMax = 1000;

export class Verdicts {
  private readonly waiting = new Map<string, Waiting>();
  private session: Session | undefined;

  /** Resolves when the target holds it durably; rejects with `peer-unreachable` when it was given up. */
  give(verdict: Verdict): Promise<void> {
    const kept = Promise.withResolvers<void>();
    kept.promise.catch(() => undefined);
    this.waiting.set(verdict.checkpoint, { verdict, kept });
    for (const [checkpoint, old] of this.waiting) {
      if (this.waiting.size <= waitingCountMax) break;
      this.waiting.delete(checkpoint);
      old.kept.reject(new TidemarkError('peer-unreachable', `The proof of checkpoint ${checkpoint} was given up.`));
    }
    this.session?.sendVerdict(verdict);
    return kept.promise;
  }

  connected(session: Session): void {
    this.session = session;
    for (const { verdict } of this.waiting.values()) session.sendVerdict(verdict);
  }

  disconnected(): void {
    this.session = undefined;
  }

  kept(checkpoint: string): void {
    this.waiting.get(checkpoint)?.kept.resolve();
    this.waiting.delete(checkpoint);
  }
}
