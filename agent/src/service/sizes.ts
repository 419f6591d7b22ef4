/** Byte counts that people write: 1073741824, `1GiB`, `500 MB`. */
import { z } from 'zod';

const units: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  k: 1024,
  m: 1024 ** 2,
  g: 1024 ** 3,
  t: 1024 ** 4,
  kib: 1024,
  mib: 1024 ** 2,
  gib: 1024 ** 3,
  tib: 1024 ** 4,
};

/** Bytes of `10GiB`; undefined when it is no whole, safe number of bytes. K, M, G, T alone are binary, as in QEMU. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  const unit = match === null ? undefined : units[match[2]!.toLowerCase()];
  if (match === null || unit === undefined) return undefined;
  const bytes = Number(match[1]) * unit;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** A number of bytes, or text that {@link parseSize} understands; a number afterwards. */
export const sizeSchema = z
  .union([
    z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER),
    z.string().regex(/^\s*\d+(\.\d+)?\s*([kmgt]i?)?b?\s*$/i, 'a size is a number of bytes or e.g. 512MiB'),
  ])
  .transform((value, context) => {
    const bytes = typeof value === 'number' ? value : parseSize(value);
    if (bytes !== undefined) return bytes;
    context.addIssue({ code: 'custom', message: 'a size is a whole number of bytes below 2^53, or e.g. 512MiB' });
    return z.NEVER;
  });
