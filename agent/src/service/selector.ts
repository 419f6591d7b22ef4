/** The text form of a checkpoint selector, for command lines and queries. */
import { TidemarkError } from '../core/errors.js';
import { checkpointSelectorSchema, type CheckpointSelector } from './checkpoint-schemas.js';

const ago = /^-(\d{1,9})([smhd])$/;
const secondsOf: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };

/**
 * `latest`, `latest-application`, `id:ID` or the plain id, `label:LABEL`, `time:T` or a plain ISO time or milliseconds;
 * `-15m` is 15 minutes before `nowMs` (s, m, h, d). Throws `request-invalid`.
 */
export function parseSelector(text: string, nowMs: number): CheckpointSelector {
  const candidate = guess(text, nowMs);
  const result = checkpointSelectorSchema.safeParse(candidate);
  if (result.success) return result.data;
  const wanted = 'latest, latest-application, a checkpoint id, label:LABEL, an ISO time, or -15m';
  throw new TidemarkError('request-invalid', `${JSON.stringify(text)} names no checkpoint; give ${wanted}`, {
    path: 'at',
  });
}

function guess(text: string, nowMs: number): unknown {
  if (text === 'latest' || text === 'latest-application') return { by: text };
  if (text.startsWith('id:')) return { by: 'id', checkpoint: text.slice(3) };
  if (text.startsWith('label:')) return { by: 'label', label: text.slice(6) };
  if (text.startsWith('time:')) return { by: 'time', timeMs: parseTime(text.slice(5)) };
  const before = ago.exec(text);
  if (before !== null) return { by: 'time', timeMs: nowMs - Number(before[1]) * secondsOf[before[2]!]! * 1000 };
  if (/^\d{4}-\d{2}-\d{2}/.test(text)) return { by: 'time', timeMs: parseTime(text) };
  return { by: 'id', checkpoint: text };
}

/** Milliseconds, or an ISO time; NaN when it is neither. */
export function parseTime(text: string): number {
  return /^\d{10,16}$/.test(text) ? Number(text) : Date.parse(text);
}

/** The inverse of {@link parseSelector}. */
export function formatSelector(selector: CheckpointSelector): string {
  switch (selector.by) {
    case 'id':
      return `id:${selector.checkpoint}`;
    case 'label':
      return `label:${selector.label}`;
    case 'time':
      return `time:${Math.floor(selector.timeMs)}`;
    case 'latest':
    case 'latest-application':
      return selector.by;
  }
}
