/** What a link takes from outside besides clock, storage and network, and its bounds. */
import type { Clock } from '../core/clock.js';
import type { EventSink } from '../core/events.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { Dialer } from '../core/transport.js';
import type { Throttle } from './throttle.js';

/** Lets everything that is ready run first (production: setImmediate), so that acknowledgements come before sending. */
export interface Scheduler {
  yield(): Promise<void>;
}

/** zstd; production runs it on a thread of its own, the simulation at once. `level` is 1…6. */
export interface Compressor {
  /** The memory of `raw`, a whole buffer, is the compressor's from now on. */
  compress(raw: Uint8Array<ArrayBuffer>, level: number): Promise<Uint8Array> | Uint8Array;
}

/** Bounds of one link; all of them are shown in its status. */
export interface LinkBounds {
  /** Memory for records that are not durable at the target. Above it the oldest go to the spool. Default 64 MiB. */
  readonly bufferBytes: number;
  /** Above it capture retreats to the bitmap. Default bufferBytes × 1.25. */
  readonly bufferBytesMax: number;
  /** Bytes of spool files; 0: no spool. Default 0. */
  readonly spoolBytes: number;
  /** Size at which a spool file is closed and a new one begun. Default 64 MiB, at most a quarter of spoolBytes. */
  readonly spoolFileBytes: number;
  /** Sent and not yet durable; nothing new is begun above it. Default bufferBytes / 4, at most 32 MiB. */
  readonly inFlightBytes: number;
  /** Unsent bytes above which chunks are folded before they are sent. Default bufferBytes / 2. */
  readonly foldBytes: number;
  /** Raw body of one part of a folded range. Default and maximum 1 MiB. */
  readonly foldPartBytes: number;
  /** A backlog that takes longer than this to send widens the checkpoint interval. Default 10 s. */
  readonly widenAfterMs: number;
  /** A sync reads ahead until so many bytes are unsent. Default bufferBytes / 4, at most 16 MiB. */
  readonly syncQueueBytes: number;
  /** Records wait so long for company before a block is closed. Default 5 ms. */
  readonly lingerMs: number;
  /**
   * Sending waits while guests write faster than `burstBytesPerSecond`, less than half of the buffer is used and the wait
   * is not longer than this: a burst gets the whole processor. 0: never. Default 500 ms and 64 MiB a second.
   */
  readonly burstMsMax: number;
  readonly burstBytesPerSecond: number;
  /** Default 5 s; three unanswered pings close the connection. */
  readonly keepAliveMs: number;
  /** First and longest wait before a new dial; jittered. Default 250 ms and 30 s. */
  readonly backoffMsMin: number;
  readonly backoffMsMax: number;
}

export interface LinkOptions {
  /** Names a person knows: the target agent, its host:port. */
  readonly target: string;
  readonly address: string;
  /** For the epoch file and the spool; made when missing; of this link alone. */
  readonly directory: string;
  readonly storage: Storage;
  readonly dialer: Dialer;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
  readonly scheduler: Scheduler;
  readonly compressor: Compressor;
  /** Share of the machine's processors that is idle, 0…1. */
  readonly cpuIdleShare: () => number;
  /** May be shared by the links of an agent. */
  readonly throttle?: Throttle;
  /** Version of this agent, for the peer's log. */
  readonly software: string;
  readonly bounds?: Partial<LinkBounds>;
}

const MiB = 1024 * 1024;

export function linkBounds(given: Partial<LinkBounds> = {}): LinkBounds {
  const bufferBytes = given.bufferBytes ?? 64 * MiB;
  const spoolBytes = given.spoolBytes ?? 0;
  return {
    bufferBytes,
    bufferBytesMax: bufferBytes * 1.25,
    spoolBytes,
    spoolFileBytes: Math.min(64 * MiB, Math.ceil(spoolBytes / 4)),
    inFlightBytes: Math.min(32 * MiB, bufferBytes / 4),
    foldBytes: bufferBytes / 2,
    foldPartBytes: MiB,
    widenAfterMs: 10_000,
    syncQueueBytes: Math.min(16 * MiB, bufferBytes / 4),
    lingerMs: 5,
    burstMsMax: 500,
    burstBytesPerSecond: 64 * MiB,
    keepAliveMs: 5000,
    backoffMsMin: 250,
    backoffMsMax: 30_000,
    ...given,
  };
}
