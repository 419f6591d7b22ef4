import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { SlabPool, type SlabPayload } from '../../agent/src/nbd/slab.js';

const MiB = 1 << 20;

describe('slab pool', () => {
  test('held payloads never overlap, keep their bytes and stay within the bound', () => {
    const step = fc.record({ lengthBytes: fc.integer({ min: 1, max: 6 * MiB }), drop: fc.nat(3) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const pool = new SlabPool({ limitBytes: 36 * MiB });
        const held: { payload: SlabPayload; tag: number }[] = [];
        steps.forEach(({ lengthBytes, drop }, tag) => {
          const payload = pool.allocate(lengthBytes);
          if (payload !== undefined) {
            payload.bytes.fill(tag);
            held.push({ payload, tag });
          }
          for (let index = 0; index < drop && held.length > 0; index++) held.shift()?.payload.release();
          const { allocatedBytes, heldBytes, limitBytes } = pool.status();
          expect(allocatedBytes).toBeLessThanOrEqual(limitBytes);
          expect(heldBytes).toBeLessThanOrEqual(allocatedBytes);
        });
        for (const { payload, tag } of held) {
          expect(payload.bytes[0]).toBe(tag);
          expect(payload.bytes.at(-1)).toBe(tag);
          payload.release();
        }
        expect(pool.status().heldBytes).toBe(0);
      }),
      { numRuns: 30 },
    );
  });

  test('pressure: the owner frees memory, or the allocation fails and a waiter is woken', async () => {
    const kept: SlabPayload[] = [];
    const pool = new SlabPool({ limitBytes: 36 * MiB });
    for (let payload = pool.allocate(4 * MiB); payload !== undefined; payload = pool.allocate(4 * MiB))
      kept.push(payload);
    expect(kept).toHaveLength(9);
    expect(pool.status().pressureCount).toBe(1);
    const woken = new Promise<void>((resolve) => pool.onFree(resolve));
    kept.pop()?.release();
    await woken;
    expect(pool.status().waitingCount).toBe(0);
    pool.onPressure = (): void => kept.splice(0).forEach((payload) => payload.release());
    expect(pool.allocate(32 * MiB)).toBeDefined();
  });

  test('a payload that is retained outlives its first release; one too many is a bug', () => {
    const pool = new SlabPool({ limitBytes: 36 * MiB });
    const payload = pool.allocate(10)!;
    payload.retain();
    payload.release();
    expect(pool.status().heldBytes).toBeGreaterThan(0);
    payload.release();
    expect(pool.status().heldBytes).toBe(0);
    expect(() => payload.release()).toThrow('released too often');
    expect(() => payload.retain()).toThrow('after its release');
  });
});
