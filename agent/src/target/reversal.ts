/** What a reversal needs of the agent around the group. */
import type { OperationRequest } from '../service/operation-schemas.js';
import type { GroupContext } from './context.js';
import type { OperationResult } from './operations.js';
import type { SourceRequest } from './source-peers.js';

export type TakeOver = Extract<OperationRequest, { kind: 'take-over' }>['arguments'];

export interface Reversal {
  /** The VMs here as a source group to that peer. Throws, before anything is touched, what makes it impossible. */
  check(group: GroupContext, peer: string): Promise<Pick<TakeOver, 'disks' | 'policy'>>;
  /** Resolves when the peer has the group as a target; may be asked again. */
  takeOver(
    peer: string,
    request: SourceRequest & { readonly arguments: TakeOver },
    onProgress: (doneBytes: number, totalBytes: number) => void,
  ): Promise<OperationResult>;
  /** The group is protected from here, durable when it resolves; may be asked again. */
  turn(group: GroupContext, peer: string, operation: string): Promise<void>;
  /** The group is encrypted at rest here. */
  isEncrypted(group: string): boolean;
}
