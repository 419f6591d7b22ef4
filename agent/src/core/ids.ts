/** Identifiers made from the injected randomness. */
import type { Random } from './random.js';

/** `byteCount` random bytes as lower-case hexadecimal. */
export function randomHex(random: Random, byteCount: number): string {
  return Buffer.from(random.bytes(byteCount)).toString('hex');
}

const digits = '0123456789abcdefghjkmnpqrstvwxyz';

/** Sortable by time: 10 characters of milliseconds, 6 random, in lower-case base 32 (Crockford). */
export function checkpointId(random: Random, timeMs: number): string {
  let id = '';
  for (let rest = Math.floor(timeMs), index = 0; index < 10; index++, rest = Math.floor(rest / 32))
    id = (digits[rest % 32] as string) + id;
  for (const byte of random.bytes(6)) id += digits[byte % 32] as string;
  return id;
}
