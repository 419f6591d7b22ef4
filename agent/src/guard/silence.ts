/**
 * How old the oldest unanswered write of an agent may be, seen from outside: what the agent last reported, and the time
 * since. Time in which the watcher itself did not run (a machine that was stopped or starved) is not counted: the agent
 * had no chance to report either.
 */
export interface Silence {
  /** The sum of both. */
  readonly ageMs: number;
  readonly sinceReportMs: number;
  readonly reportedMs: number;
}

export class SilenceWatch {
  #reportedMs = 0;
  #sinceReportMs = 0;
  #lastMs: number;

  /** `stepMsMax`: the most that one look counts; some more than the time from look to look. */
  constructor(
    private readonly stepMsMax: number,
    nowMs: number,
  ) {
    this.#lastMs = nowMs;
  }

  reported(oldestMs: number, nowMs: number): void {
    this.#reportedMs = oldestMs;
    this.#sinceReportMs = 0;
    this.#lastMs = nowMs;
  }

  look(nowMs: number): Silence {
    this.#sinceReportMs += Math.min(Math.max(0, nowMs - this.#lastMs), this.stepMsMax);
    this.#lastMs = nowMs;
    return {
      ageMs: this.#reportedMs + this.#sinceReportMs,
      sinceReportMs: this.#sinceReportMs,
      reportedMs: this.#reportedMs,
    };
  }
}
