/** Option values of commands, checked. */
import { TidemarkError } from '../core/errors.js';

/** A number that is not negative; throws `request-invalid` naming the option. */
export function numberOf(text: string, option: string): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isFinite(value) && value >= 0) return value;
  throw new TidemarkError('request-invalid', `--${option} is a number, not ${JSON.stringify(text)}`, { path: option });
}
