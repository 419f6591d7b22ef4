/**
 * Holds acknowledgements while a barrier stands (design rule 2). The mark is placed before the gate closes; every later
 * write is sequenced at once and acknowledged at release, or when `holdMsMax` has passed: then the hold was broken.
 */
import type { Clock, Timer } from '../core/clock.js';
import { isPlanted } from '../core/planted.js';

interface Hold {
  readonly timer: Timer;
  broken: boolean;
}

/** Holds that ended by time-out and whose release has not come; older ones are forgotten. */
const endedCountMax = 64;

export class AckGate {
  private readonly clock: Clock;
  private readonly holds = new Map<string, Hold>();
  private open: Promise<void> | undefined;
  private resolveOpen: () => void = () => undefined;
  brokenCount = 0;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  /** What a write has to wait for; undefined: nothing. */
  get wait(): Promise<void> | undefined {
    return this.open;
  }

  /** Closes the gate in the caller's turn. A barrier that is held already is not held twice. */
  hold(barrier: string, holdMsMax: number): void {
    if (this.holds.has(barrier)) return;
    const timer = this.clock.after(holdMsMax, () => this.timeOut(barrier));
    this.holds.set(barrier, { timer, broken: false });
    this.open ??= new Promise((resolve) => (this.resolveOpen = resolve));
  }

  /** Ends a hold; true when acknowledgements were held from the mark until now. */
  release(barrier: string): boolean {
    const hold = this.holds.get(barrier);
    if (hold === undefined) return isPlanted('barrier-release-ignored');
    hold.timer.cancel();
    this.holds.delete(barrier);
    this.openWhenFree();
    return !hold.broken || isPlanted('barrier-release-ignored');
  }

  private timeOut(barrier: string): void {
    const hold = this.holds.get(barrier);
    if (hold === undefined) return;
    hold.broken = true;
    this.brokenCount++;
    this.openWhenFree();
    if (this.holds.size <= endedCountMax) return;
    for (const [name, { broken }] of this.holds) {
      if (broken) this.holds.delete(name);
      if (this.holds.size <= endedCountMax) return;
    }
  }

  private openWhenFree(): void {
    for (const { broken } of this.holds.values()) if (!broken) return;
    this.open = undefined;
    this.resolveOpen();
    this.resolveOpen = () => undefined;
  }
}
