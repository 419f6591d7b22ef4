/** The operating system's randomness. */
import { randomBytes } from 'node:crypto';
import type { Random } from '../core/random.js';

export const nodeRandom: Random = {
  float: () => randomBytes(6).readUIntBE(0, 6) / 2 ** 48,
  bytes: (count) => randomBytes(count),
};
