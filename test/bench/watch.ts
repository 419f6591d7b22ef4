/** Watches a pair while it is under load: worst stage of retreat, RPO, checkpoints as they become durable. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { WatchedPair } from './context.js';

export const stages = ['buffer', 'spool', 'fold', 'bitmap'] as const;
export type Stage = (typeof stages)[number];

export interface Sample {
  readonly atMs: number;
  readonly stage: Stage;
  readonly bufferBytes: number;
  readonly pendingBytes: number;
  readonly sequenceDurable: number;
  readonly effectiveIntervalSeconds: number;
  readonly rpoSeconds: number | null;
  readonly newestCheckpoint: string | null;
}

export class Watch {
  readonly samples: Sample[] = [];
  #running = true;
  readonly #loop: Promise<void>;

  constructor(
    private readonly pair: WatchedPair,
    private readonly everyMs: number,
    private readonly onSample: (sample: Sample) => void = () => {},
  ) {
    this.#loop = this.#run();
    // Reported by `stop`.
    this.#loop.catch(() => {});
  }

  async stop(): Promise<readonly Sample[]> {
    this.#running = false;
    await this.#loop;
    return this.samples;
  }

  get worstStage(): Stage {
    return stages[Math.max(0, ...this.samples.map(({ stage }) => stages.indexOf(stage)))]!;
  }

  async #run(): Promise<void> {
    while (this.#running) {
      const sample = await takeSample(this.pair);
      this.samples.push(sample);
      this.onSample(sample);
      await sleep(this.everyMs);
    }
  }
}

export async function takeSample(pair: WatchedPair): Promise<Sample> {
  const [source, target] = await Promise.all([pair.sourceStatus(), pair.targetStatus()]);
  const link = source.links[0]!;
  return {
    atMs: performance.now(),
    stage: link.stage ?? 'buffer',
    bufferBytes: link.bufferBytes,
    pendingBytes: link.bufferBytes + link.spoolBytes + link.dirtyBytes,
    sequenceDurable: link.sequenceDurable,
    effectiveIntervalSeconds: source.effectiveIntervalSeconds,
    rpoSeconds: target.rpoSeconds,
    newestCheckpoint: target.newestCheckpoint?.id ?? null,
  };
}

/** Undefined: all that was captured was kept in the buffer, by status and events. */
export async function describeRetreat(pair: WatchedPair, watch: Watch): Promise<string | undefined> {
  if (watch.worstStage !== 'buffer') return `retreat to ${watch.worstStage}`;
  const events = await retreatEvents(pair);
  return events.length > 0 ? `events ${[...new Set(events)].join(', ')}` : undefined;
}

/** Codes of events that say that the source retreated, and how often. */
export async function retreatEvents(pair: WatchedPair): Promise<string[]> {
  const { events } = await pair.source.client.events({ limit: 1000 });
  return events.map(({ code }) => code).filter((code) => /retreat|spool|fold|bitmap|resync/.test(code));
}
