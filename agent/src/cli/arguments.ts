/** Option values of commands, checked. */
import { TidemarkError } from '../core/errors.js';
import { parseSelector } from '../service/selector.js';

/** A number that is not negative; throws `request-invalid` naming the option. */
export function numberOf(text: string, option: string): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isFinite(value) && value >= 0) return value;
  throw new TidemarkError('request-invalid', `--${option} is a number, not ${JSON.stringify(text)}`, { path: option });
}

/** An ISO time, milliseconds, or a time before now (`-2h`); throws `request-invalid` naming the option. */
export function timeOf(text: string, nowMs: number, path: string): number {
  const selector = parseSelector(/^\d{10,}$/.test(text) ? `time:${text}` : text, nowMs);
  if (selector.by === 'time') return selector.timeMs;
  throw new TidemarkError('request-invalid', `--${path} is a time, not ${JSON.stringify(text)}`, { path });
}
