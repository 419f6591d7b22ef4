/** What a target group asks of its source agents besides their streams; runtime/ implements it over their control APIs. */
import type { StopArguments } from '../service/operation-schemas.js';

export interface SourceStop {
  /** Null: the group has several source agents, and the checkpoint is made here. */
  readonly checkpoint: string | null;
  readonly incarnation: number;
  /** All that the source ever wrote lies before it. */
  readonly sequence: number;
  /** VMs that ran and are off now. */
  readonly stopped: readonly string[];
}

export interface SourceRequest {
  /** Of the operation at the source. */
  readonly id: string;
  readonly group: string;
  readonly signal: AbortSignal;
}

export interface SourcePeers {
  /** Throws `peer-api-unknown`. */
  check(peer: string): void;
  /** Resolves when the source's VMs are off and what they wrote is durable here; rejects with what the source says. */
  stop(
    peer: string,
    request: SourceRequest & { readonly arguments: StopArguments & { readonly order: string[][] } },
    onProgress: (doneBytes: number, totalBytes: number) => void,
  ): Promise<SourceStop>;
  /** Starts again what the operation `stop` stopped, and calls that off. */
  start(peer: string, request: SourceRequest & { readonly stop: string }): Promise<void>;
}
