/**
 * Who may write into a group: epoch, branch and incarnation at hello, contiguity for each block (design rules 9, 15).
 * Pure, so that the checks on arrival and on apply are the same code.
 */
import type { BlockHeader } from '../block/block.js';
import { TidemarkError } from '../core/errors.js';
import { isPlanted } from '../core/planted.js';
import type { Hello } from '../stream/messages.js';
import type { ManifestState } from './manifest.js';

/**
 * Throws `stale-epoch` when the target holds the group, or the source is behind a failover that was not rolled back;
 * `fork` when the source knows a branch that this group has never had. A source that knows nothing (epoch 0) and one
 * of an older known epoch are welcome while the source side holds the epoch (a rollback grants it the newest).
 */
export function checkEpoch(group: string, hello: Pick<Hello, 'epoch' | 'branch'>, state: ManifestState): void {
  if (isPlanted('stale-epoch-accepted')) return;
  const current = state.epochs.at(-1);
  if (current === undefined) throw new TidemarkError('illegal-state', `Group ${group} has no epoch yet.`);
  if (hello.epoch !== 0) {
    const known = state.epochs.some((epoch) => epoch.epoch === hello.epoch && epoch.branch === hello.branch);
    if (!known) {
      throw new TidemarkError(
        'fork',
        `The source of ${group} is at epoch ${hello.epoch} branch ${hello.branch}, which this target has never given; ` +
          `here epoch ${current.epoch} branch ${current.branch} is in force. Neither side takes the other's data.`,
      );
    }
  }
  if (current.holder !== 'source') {
    throw new TidemarkError(
      'stale-epoch',
      `Group ${group} was failed over (epoch ${current.epoch}, ${current.reason}); the source's epoch ${hello.epoch} is stale.`,
    );
  }
}

/** True when a block of that header may land now. */
export function isBlockCurrent(header: BlockHeader, state: ManifestState): boolean {
  const epoch = state.epochs.at(-1);
  const incarnation = state.incarnations.get(header.stream);
  const epochAgrees =
    isPlanted('stale-epoch-accepted') ||
    (epoch?.holder === 'source' && epoch.epoch === header.epoch && epoch.branch === header.branch);
  const incarnationAgrees = isPlanted('stale-incarnation-accepted') || incarnation?.incarnation === header.incarnation;
  return epochAgrees && incarnationAgrees;
}

/** Contiguity of one stream in one incarnation, folded ranges included. */
export class ContiguityGate {
  /** Last sequence that was taken whole. */
  private lastSequence: number;
  private range: { first: number; last: number; nextPart: number } | undefined;

  constructor(lastSequence: number) {
    this.lastSequence = lastSequence;
  }

  /** `false`: a duplicate of what is here already, to be dropped. Throws `gap`. */
  admit(header: BlockHeader): boolean {
    if (header.lastSequence <= this.lastSequence) return false;
    const range = this.range;
    if (header.folded && header.part > 0) {
      const continues =
        range?.first === header.firstSequence && range.last === header.lastSequence && range.nextPart === header.part;
      if (!continues) throw this.gap(header);
    } else if (range !== undefined || header.firstSequence !== this.lastSequence + 1) {
      throw this.gap(header);
    }
    if (!header.folded || header.lastPart) {
      this.lastSequence = header.lastSequence;
      this.range = undefined;
    } else {
      this.range = { first: header.firstSequence, last: header.lastSequence, nextPart: header.part + 1 };
    }
    return true;
  }

  private gap(header: BlockHeader): TidemarkError {
    return new TidemarkError(
      'gap',
      `Stream ${header.stream}: block ${header.firstSequence}…${header.lastSequence} part ${header.part} does not follow ` +
        `sequence ${this.lastSequence}${this.range === undefined ? '' : ` and open range ${this.range.first}…${this.range.last}`}.`,
    );
  }
}
