/** The agent's newest events, a bounded number of them, with waiting. */
import type { Clock } from '../core/clock.js';
import type { AgentEvent, EventPage, EventQuery, NewEvent } from './event-schemas.js';

export const eventCountMaxDefault = 10_000;

export class EventRing {
  readonly boot: string;
  readonly #clock: Clock;
  readonly #countMax: number;
  readonly #events: AgentEvent[] = [];
  readonly #waiters = new Set<() => void>();
  #lastId = 0;

  /** `boot`: random for each start of the agent, so that a client notices that ids started again. */
  constructor(clock: Clock, boot: string, countMax = eventCountMaxDefault) {
    this.#clock = clock;
    this.boot = boot;
    this.#countMax = countMax;
  }

  get lastId(): number {
    return this.#lastId;
  }

  /** Appends; the oldest leaves when the ring is full. */
  add(event: NewEvent): AgentEvent {
    const full: AgentEvent = { id: ++this.#lastId, timeMs: this.#clock.wallMs(), ...event };
    this.#events.push(full);
    // Cut in bulk: one shift for each event would cost the length of the ring every time.
    if (this.#events.length >= this.#countMax * 2) this.#events.splice(0, this.#events.length - this.#countMax);
    for (const wake of [...this.#waiters]) wake();
    return full;
  }

  page(query: Pick<EventQuery, 'after' | 'limit' | 'boot'>): EventPage {
    const sameBoot = query.boot === undefined || query.boot === this.boot;
    const after = sameBoot ? Math.min(query.after, this.#lastId) : 0;
    const oldest = this.#lastId - Math.min(this.#events.length, this.#countMax) + 1;
    const first = Math.max(after + 1, oldest);
    const start = this.#events.length - (this.#lastId - first + 1);
    const events = this.#events.slice(start, start + query.limit);
    return { boot: this.boot, events, next: events.at(-1)?.id ?? after, lost: first > after + 1 };
  }

  /** Resolves when an id above `after` exists or the signal aborts; never rejects. */
  wait(after: number, signal: AbortSignal): Promise<void> {
    if (this.#lastId > after || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = (): void => {
        if (this.#lastId <= after && !signal.aborted) return;
        this.#waiters.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#waiters.add(wake);
      signal.addEventListener('abort', wake);
    });
  }
}
