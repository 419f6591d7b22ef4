/** The checkpoints that can be recovered now, derived from the journal's durable marks and the manifest. */
import { TidemarkError } from '../core/errors.js';
import { checkpointTimeMs } from '../core/ids.js';
import type { JournalMark } from '../journal/types.js';
import { isVectorWithin, type Vector } from '../journal/position.js';
import { coordinatorStream, type Checkpoint } from './manifest-records.js';
import { disksAt } from './disk-set.js';
import type { ManifestState } from './manifest.js';

/** How a person names a checkpoint. `timeMs`: the newest complete one not after that moment. */
export type CheckpointSelector =
  | { readonly by: 'latest' }
  | { readonly by: 'latest-application' }
  | { readonly by: 'id'; readonly checkpoint: string; readonly allowIncomplete?: boolean | undefined }
  | { readonly by: 'time'; readonly timeMs: number }
  | { readonly by: 'label'; readonly label: string };

/**
 * All checkpoints in journal order, the promoted one first. In a group of several streams a mark counts only when every
 * stream's mark of the same barrier is durable and the coordinator's verdict is in the manifest (design rule 2).
 */
export function listCheckpoints(marks: readonly JournalMark[], state: ManifestState): Checkpoint[] {
  const list: Checkpoint[] = [];
  // From the moment a promotion may have begun, what is older than its end cannot be read any more.
  const base = state.promoting ?? state.promoted;
  if (base !== undefined) list.push(judged(base.checkpoint, Object.keys(base.checkpoint.vector).map(Number), state));
  const afterBase = (vector: Vector): boolean => base === undefined || !isVectorWithin(vector, base.through);
  const groups = new Map<string, JournalMark[]>();
  for (const found of marks) {
    const together = groups.get(found.mark.id);
    if (together === undefined) groups.set(found.mark.id, [found]);
    else together.push(found);
  }
  for (const [id, together] of groups) {
    const first = together[0] as JournalMark;
    const vector: Record<number, { incarnation: number; sequence: number }> = {};
    for (const { stream, incarnation, sequence } of together) vector[stream] = { incarnation, sequence };
    if (first.mark.barrier !== undefined && !isVerdictComplete(id, together, state)) continue;
    if (!afterBase(vector)) continue;
    const missing = new Set(together.flatMap(({ mark }) => [...mark.disksMissing]));
    for (const disk of disksAt(state, vector))
      if (disk.missing === true || vector[disk.stream] === undefined) missing.add(disk.index);
    const disksUnknown = together.reduce((sum, { mark }) => sum + (mark.disksUnknown ?? 0), 0);
    const isProvisional = together.some(({ mark }) => mark.provisional === true);
    const checkpoint: Checkpoint = {
      id,
      kind: isProvisional ? 'crash' : first.mark.kind,
      ...(isProvisional ? { provisional: true } : {}),
      ...(first.mark.label === undefined ? {} : { label: first.mark.label }),
      sourceTimeMs: Math.max(...together.map(({ mark }) => mark.sourceTimeMs)),
      complete: missing.size + disksUnknown === 0,
      disksMissing: [...missing].sort((a, b) => a - b),
      ...(disksUnknown === 0 ? {} : { disksUnknown }),
      epoch: first.epoch,
      vector,
      ...attributesOf(together),
    };
    list.push(judged(checkpoint, Object.keys(vector).map(Number), state));
  }
  return list;
}

/** Of a mark whose source has not said yet, or never could, how its hold went. */
const noProof = {
  proven: false,
  reasons: [{ vm: '', step: 'verify', code: 'proof-missing', reason: 'the proof of its hold did not arrive' }],
};

/** A provisional one is an application checkpoint only when its hold was proven: to its source, or to this target when there are several. */
function judged(checkpoint: Checkpoint, streams: readonly number[], { verdicts }: ManifestState): Checkpoint {
  if (checkpoint.provisional !== true) return checkpoint;
  const verdict = verdicts.get(checkpoint.id);
  const judge = streams.length > 1 ? coordinatorStream : streams[0];
  if (verdict === undefined || verdict.stream !== judge)
    return { ...checkpoint, attributes: { ...checkpoint.attributes, application: noProof } };
  const attributes = { ...checkpoint.attributes, application: verdict.attributes };
  if (!verdict.proven) return { ...checkpoint, attributes };
  const { provisional: _, ...proven } = checkpoint;
  return { ...proven, kind: 'application', attributes };
}

/** Of all streams; each agent names the definitions of its own VMs. */
function attributesOf(together: readonly JournalMark[]): Pick<Checkpoint, 'attributes'> {
  const all = together.flatMap(({ mark }) => (mark.attributes === undefined ? [] : [mark.attributes]));
  const first = all[0];
  if (first === undefined) return {};
  const definitions = Object.assign({}, ...all.map((attributes) => attributes['definitions'])) as object;
  return { attributes: { ...first, ...(Object.keys(definitions).length === 0 ? {} : { definitions }) } };
}

function isVerdictComplete(id: string, together: readonly JournalMark[], state: ManifestState): boolean {
  const verdict = state.barriers.get(id);
  if (verdict === undefined) return false;
  return Object.entries(verdict.vector).every(([stream, position]) =>
    together.some(
      (found) =>
        found.stream === Number(stream) &&
        found.incarnation === position.incarnation &&
        found.sequence === position.sequence &&
        found.mark.barrier === verdict.barrier,
    ),
  );
}

/** Resolves a selector once, when an action starts. Only an id with `allowIncomplete` may name an incomplete one. */
export function resolveCheckpoint(checkpoints: readonly Checkpoint[], selector: CheckpointSelector): Checkpoint {
  const complete = checkpoints.filter((checkpoint) => checkpoint.complete);
  const found = ((): Checkpoint | undefined => {
    switch (selector.by) {
      case 'latest':
        return complete.at(-1);
      case 'latest-application':
        return complete.findLast((checkpoint) => checkpoint.kind === 'application');
      case 'id':
        return checkpoints.find((checkpoint) => checkpoint.id === selector.checkpoint);
      case 'time':
        return complete.findLast((checkpoint) => checkpoint.sourceTimeMs <= selector.timeMs);
      case 'label':
        return complete.findLast((checkpoint) => checkpoint.label === selector.label);
    }
  })();
  if (found !== undefined && !found.complete && !(selector.by === 'id' && selector.allowIncomplete === true)) {
    throw new TidemarkError(
      'checkpoint-incomplete',
      `Checkpoint ${found.id} misses ${found.disksMissing.length + (found.disksUnknown ?? 0)} disks.`,
      { path: 'at' },
    );
  }
  if (found !== undefined) return found;
  if (selector.by === 'id' && isPast(checkpoints, selector.checkpoint))
    throw new TidemarkError(
      'checkpoint-expired',
      `Checkpoint ${selector.checkpoint} is not kept any more; the oldest is ${checkpoints[0]?.id ?? 'none'}.`,
      { path: 'at' },
    );
  const what =
    selector.by === 'id'
      ? `id ${selector.checkpoint}`
      : selector.by === 'label'
        ? `label ${selector.label}`
        : selector.by;
  throw new TidemarkError(
    'checkpoint-unknown',
    `No checkpoint matches ${what}; ${complete.length} complete ones are listed.`,
    { path: 'at' },
  );
}

/** It is an id, of a time that the history reaches beyond. */
function isPast(checkpoints: readonly Checkpoint[], id: string): boolean {
  const madeMs = checkpointTimeMs(id);
  const newest = checkpoints.at(-1);
  return madeMs !== undefined && newest !== undefined && madeMs < newest.sourceTimeMs;
}
