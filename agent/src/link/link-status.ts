/** What a person, the API and the metrics see of a link. Bytes unless the name says otherwise. */
export type LinkState =
  /** Not connected, dialling or waiting to dial again. */
  | 'connecting'
  /** All is sent as it comes. */
  | 'streaming'
  /** A backlog lies in the spool. */
  | 'spooling'
  /** A backlog is being folded; overwrites travel once. */
  | 'folding'
  /** The target is being brought up to the source; no complete checkpoint meanwhile. */
  | 'resyncing'
  /** As resyncing, but a disk has no reader: it waits until all of it was written. */
  | 'sync-unavailable'
  /** The target was failed over: this source is stale; its guest goes on. */
  | 'fenced'
  /** Both sides hold history the other lacks; waits for a person. */
  | 'forked'
  /** The target cannot take more now. */
  | 'paused'
  /** The target refused for another reason (`refusal`). */
  | 'refused'
  | 'stopped';

export interface SyncProgress {
  readonly disk: string;
  readonly kind: 'initial' | 'bitmap' | 'delta';
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly bytesPerSecond: number;
  /** Undefined until a rate is known. */
  readonly secondsLeft: number | undefined;
}

export interface LinkStatus {
  readonly target: string;
  readonly address: string;
  readonly state: LinkState;
  readonly refusal: { readonly code: string; readonly message: string } | undefined;
  readonly connected: boolean;
  readonly connectedSinceMs: number | undefined;
  readonly epoch: number;
  readonly branch: string;
  readonly incarnation: number;
  /** What the target held durably of an earlier incarnation when this one began; undefined: nothing, or unknown. */
  readonly previous: { readonly incarnation: number; readonly durableSequence: number } | undefined;
  readonly sequenceGiven: number;
  readonly sequenceDurable: number;
  /** How far the retreat went. */
  readonly stage: 'buffer' | 'spool' | 'fold' | 'bitmap';
  readonly bufferBytes: number;
  readonly bufferBytesMax: number;
  readonly spoolBytes: number;
  readonly spoolBytesMax: number;
  readonly inFlightBytes: number;
  readonly inFlightBytesMax: number;
  readonly unsentBytes: number;
  readonly unsentRecordCount: number;
  readonly dirtyBytes: number;
  readonly sentBytes: number;
  /** On the wire, averaged over the last seconds. */
  readonly sentBytesPerSecond: number;
  readonly throttleBytesPerSecond: number | undefined;
  /** Stored over raw bytes of all that was encoded. */
  readonly compressionRatio: number;
  readonly clockOffsetMs: number | undefined;
  /** RPO = now (source time) − this; undefined: no checkpoint is durable yet. */
  readonly durableCheckpointMs: number | undefined;
  readonly durableCheckpointId: string | undefined;
  readonly syncs: readonly SyncProgress[];
  /** Disks, or sizes of disks, that the target does not take. */
  readonly disksRefused: readonly { readonly disk: string; readonly reason: string }[];
  readonly counters: {
    readonly retreats: number;
    readonly spilledBytes: number;
    readonly spoolErrors: number;
    readonly folds: number;
    readonly foldSavedBytes: number;
    readonly marksWidened: number;
    readonly incarnationsLost: number;
    readonly connects: number;
    readonly syncReadErrors: number;
  };
  readonly lastRetreatReason: string | undefined;
}
