/** What every {@link Random} must do. */
import { describe, expect, test } from '@jest/globals';
import type { Random } from '../../agent/src/core/random.js';
import { nodeRandom } from '../../agent/src/platform/node-random.js';
import { SimRandom } from '../sim/world/sim-random.js';

const implementations: readonly (readonly [string, Random])[] = [
  ['node', nodeRandom],
  ['simulated', new SimRandom(7)],
];

describe.each(implementations)('random contract: %s', (_name, random) => {
  test('floats are in [0, 1) and spread evenly', () => {
    const counts = new Array<number>(10).fill(0);
    for (let index = 0; index < 20_000; index++) {
      const value = random.float();
      expect(value >= 0 && value < 1).toBe(true);
      counts[Math.floor(value * 10)]! += 1;
    }
    for (const count of counts) expect(Math.abs(count - 2000)).toBeLessThan(300);
  });

  test('bytes: the count asked for, all values, never the same twice', () => {
    for (const count of [0, 1, 3, 4, 7, 16]) expect(random.bytes(count)).toHaveLength(count);
    expect(new Set(random.bytes(16_384)).size).toBe(256);
    expect(random.bytes(16)).not.toEqual(random.bytes(16));
  });
});

test('the simulated generator repeats itself for a seed, and only for that', () => {
  expect(new SimRandom(5).bytes(64)).toEqual(new SimRandom(5).bytes(64));
  expect(new SimRandom(5).bytes(64)).not.toEqual(new SimRandom(6).bytes(64));
  expect(new SimRandom(5).fork().bytes(64)).toEqual(new SimRandom(5).fork().bytes(64));
  expect(new SimRandom(2 ** 40 + 5).bytes(64)).not.toEqual(new SimRandom(5).bytes(64));
  const [words, ones] = [new SimRandom(9), new SimRandom(9)];
  expect([...new Uint32Array(words.bytes(40).buffer)]).toEqual(Array.from({ length: 10 }, () => ones.next()));
});
