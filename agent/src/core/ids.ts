/** Identifiers made from the injected randomness. */
import type { Random } from './random.js';

/** `byteCount` random bytes as lower-case hexadecimal. */
export function randomHex(random: Random, byteCount: number): string {
  return Buffer.from(random.bytes(byteCount)).toString('hex');
}

const digits = '0123456789abcdefghjkmnpqrstvwxyz';

/** When a checkpoint of that id was made, milliseconds; undefined: it is no id of a checkpoint. */
export function checkpointTimeMs(id: string): number | undefined {
  if (!/^[0-9a-hjkmnp-tv-z]{16}$/.test(id)) return undefined;
  return [...id.slice(0, 10)].reduce((sum, digit) => sum * 32 + digits.indexOf(digit), 0);
}

/** Sortable by time: 10 characters of milliseconds, 6 random, in lower-case base 32 (Crockford). */
export function checkpointId(random: Random, timeMs: number): string {
  let id = '';
  for (let rest = Math.floor(timeMs), index = 0; index < 10; index++, rest = Math.floor(rest / 32))
    id = (digits[rest % 32] as string) + id;
  for (const byte of random.bytes(6)) id += digits[byte % 32] as string;
  return id;
}
