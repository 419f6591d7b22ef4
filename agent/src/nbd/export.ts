/** One served export: its backend, its clients and what they did. */
import type { Clock } from '../core/clock.js';
import type { ExportBackend } from './backend.js';

export interface ExportStatus {
  readonly name: string;
  readonly description: string;
  readonly connections: number;
  /** Since the export was added; a request that was refused at the edge counts as an error only. */
  readonly reads: number;
  readonly writes: number;
  readonly zeroes: number;
  readonly trims: number;
  readonly flushes: number;
  readonly statuses: number;
  readonly errors: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Age of the oldest write, zero, trim or flush that is not answered; 0 when there is none. */
  readonly oldestUnacknowledgedMs: number;
}

/** A write, zero, trim or flush that only a backend's promise will answer, or a write that waits for memory. */
export interface PendingWrite {
  readonly sinceMs: number;
}

export class ServedExport {
  readonly counters = {
    reads: 0,
    writes: 0,
    zeroes: 0,
    trims: 0,
    flushes: 0,
    statuses: 0,
    errors: 0,
    bytesRead: 0,
    bytesWritten: 0,
  };
  /** Oldest first. */
  readonly pendingWrites = new Set<PendingWrite>();
  connections = 0;
  /** Being removed: no new client. */
  closing = false;

  constructor(
    readonly name: string,
    readonly backend: ExportBackend,
    readonly description: string,
    readonly connectionsMax: number,
  ) {}

  /** Age of the oldest write that is not answered; 0 when there is none. */
  oldestUnacknowledgedMs(clock: Clock): number {
    const [oldest] = this.pendingWrites;
    return oldest === undefined ? 0 : clock.monotonicMs() - oldest.sinceMs;
  }

  status(clock: Clock): ExportStatus {
    return {
      name: this.name,
      description: this.description,
      connections: this.connections,
      ...this.counters,
      oldestUnacknowledgedMs: this.oldestUnacknowledgedMs(clock),
    };
  }
}

/** What a negotiation may see and take of the server's exports. */
export interface ExportDirectory {
  names(): Iterable<ServedExport>;
  find(name: string): ServedExport | undefined;
}
