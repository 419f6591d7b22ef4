/** A group's operation records as the API shows them. */
import { toApiError } from '../service/error-schema.js';
import { errorTable, TidemarkError, type ErrorCode } from '../core/errors.js';
import { operationKindSchema, type Operation, type Progress } from '../service/operation-schemas.js';
import type { TargetGroup } from '../target/group.js';
import { hasEnded, type OperationRecord, type RunningOperation } from '../target/operations.js';

const stateOfStep: Readonly<Record<string, Operation['state']>> = {
  done: 'succeeded',
  failed: 'failed',
  cancelled: 'cancelled',
};

export function operationView(group: TargetGroup, record: OperationRecord, running?: RunningOperation): Operation {
  const { error, ...result } = record.result ?? {};
  const last = hasEnded(record);
  return {
    id: record.id,
    kind: operationKindSchema.parse(record.kind),
    group: group.name,
    arguments: record.arguments,
    state: stateOfStep[record.step] ?? 'running',
    step: record.step,
    revision: running?.revision ?? 1_000_000,
    progress: running === undefined ? null : progressOf(group, running),
    startedMs: record.startedMs,
    finishedMs: last ? record.wallMs : null,
    drivenBy: record.drivenBy,
    result: last ? result : null,
    error: error === undefined ? null : errorOf(error as { code: string; message: string; path: string | null }),
  };
}

function progressOf(group: TargetGroup, running: RunningOperation): Progress | null {
  const { progress } = running;
  if (progress === undefined) return null;
  const seconds = (group.context.clock.monotonicMs() - progress.sinceMs) / 1000;
  const bytesPerSecond = seconds > 0 ? Math.max(0, progress.doneBytes - progress.fromBytes) / seconds : 0;
  const left = progress.totalBytes - progress.doneBytes;
  return {
    doneBytes: progress.doneBytes,
    totalBytes: progress.totalBytes,
    bytesPerSecond,
    secondsLeft: bytesPerSecond > 0 ? left / bytesPerSecond : null,
  };
}

function errorOf(error: { code: string; message: string; path: string | null }): Operation['error'] {
  const code = (error.code in errorTable ? error.code : 'internal') as ErrorCode;
  return toApiError(new TidemarkError(code, error.message, error.path === null ? {} : { path: error.path }));
}
