import { expect, test } from '@jest/globals';
import type { Extent } from '../../agent/src/journal/extent.js';
import { Cursor, Overlay } from '../../agent/src/journal/overlay.js';
import { RunBuilder } from '../../agent/src/journal/run-builder.js';
import type { MemoryRun } from '../../agent/src/journal/run.js';
import { SimRandom } from '../sim/world/sim-random.js';

const diskBytes = 4096;

/** Which segment each byte of disk 1 comes from, by the extents from `fromBytes` on; throws when they overlap. */
function owners(newestFirst: readonly MemoryRun[], fromBytes: number): number[] {
  const overlay = new Overlay(
    newestFirst.map((run) => new Cursor(run, 1, fromBytes)),
    1,
    fromBytes,
  );
  const bytes = new Array<number>(diskBytes).fill(0);
  let atBytes = fromBytes;
  for (let next = overlay.next(); next !== undefined; next = overlay.next()) {
    if (next instanceof Cursor) {
      void next.load();
      continue;
    }
    if (next.disk !== 1) break;
    expect(next.offsetBytes).toBeGreaterThanOrEqual(atBytes);
    expect(next.lengthBytes).toBeGreaterThan(0);
    expect(next.bodyOffset).toBe(next.offsetBytes);
    atBytes = next.offsetBytes + next.lengthBytes;
    bytes.fill(next.segmentId, next.offsetBytes, atBytes);
  }
  return bytes;
}

/** A cut that goes on behind a repaired index begins in the middle, where older extents start before newer ones. */
test('from any place on, runs laid over one another give the same as from the start', () => {
  const random = new SimRandom(5);
  for (let round = 0; round < 200; round++) {
    const runs = Array.from({ length: 1 + random.int(4) }, (_, index) => {
      const builder = new RunBuilder();
      for (let count = random.int(20); count >= 0; count--) {
        const offsetBytes = random.int(diskBytes - 600);
        const extent: Extent = {
          ...{ disk: random.int(3), offsetBytes, lengthBytes: 1 + random.int(600), zero: false },
          ...{ segmentId: index + 1, entryPosition: 0, bodyOffset: offsetBytes },
        };
        builder.add(extent);
      }
      return builder.run();
    });
    const whole = owners(runs, 0);
    const fromBytes = random.int(diskBytes);
    expect(owners(runs, fromBytes).slice(fromBytes)).toEqual(whole.slice(fromBytes));
  }
});
