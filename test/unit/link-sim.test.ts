import { describe, expect, test } from '@jest/globals';
import { plant, uprootAll, type PlantedBug } from '../../agent/src/core/planted.js';
import { Rig, TestPayload, type RigOptions } from './link-rig.js';

const KiB = 1024;

/** Random writes with faults; ends whole and equal. */
async function scenario(seed: number, options: RigOptions, faults: boolean): Promise<Rig> {
  const rig = new Rig(seed, options);
  const { world } = rig;
  for (let count = 0; count < 20; count++) {
    const disk = rig.disks[world.random.int(rig.disks.length)]!;
    const offset = world.random.int(disk.length - 5000);
    disk.set(world.random.bytes(5000), offset);
  }
  rig.start();
  for (let step = 0; step < 250; step++) {
    const writes = world.random.int(12);
    for (let count = 0; count < writes; count++) rig.randomWrite();
    if (world.random.chance(0.02)) rig.link.mark({ id: `t${step}`, kind: 'tagged', label: 'x' });
    if (faults) injectFault(rig);
    await rig.wait(world.random.float() * 60);
  }
  rig.target.stalled = false;
  rig.target.paused = false;
  world.network.heal('source', 'target');
  world.network.setSpeed('source', 'target', { latencyMs: 1, jitterMs: 0, bytesPerSecond: 1e8 });
  rig.sourceHost.disk.clearFaults();
  await rig.settle();
  await rig.finish();
  return rig;
}

function injectFault(rig: Rig): void {
  const { world, target } = rig;
  const { random } = world;
  const dice = random.int(120);
  if (dice === 0) rig.link.disconnect('test');
  else if (dice === 1) world.network.partition('source', 'target');
  else if (dice < 5) world.network.heal('source', 'target');
  else if (dice === 5) target.stalled = !target.stalled;
  else if (dice === 6) target.paused = !target.paused;
  else if (dice === 7) rig.failReads = 3;
  else if (dice < 12) rig.fail(random.int(2), random.int(200_000), 1 + random.int(5000));
  else if (dice === 12)
    world.network.setSpeed('source', 'target', { latencyMs: 5, jitterMs: 1, bytesPerSecond: 100_000 });
  else if (dice === 13) world.network.setSpeed('source', 'target', { latencyMs: 1, jitterMs: 0, bytesPerSecond: 1e8 });
  else if (dice === 14) {
    rig.sourceHost.kill();
    rig.start();
  } else if (dice === 15) target.durable = Math.max(0, target.durable - 20);
  if (dice === 15) rig.link.disconnect('regression');
}

const plain: RigOptions = { checkpointIntervalMs: 1000 };
const spooled: RigOptions = {
  checkpointIntervalMs: 1000,
  bounds: { bufferBytes: 256 * KiB, spoolBytes: 4096 * KiB, inFlightBytes: 128 * KiB },
};
const tiny: RigOptions = { checkpointIntervalMs: 1000, bounds: { bufferBytes: 192 * KiB, spoolBytes: 512 * KiB } };

describe('a link under faults leaves the same bytes at every mark', () => {
  test('without faults', async () => {
    TestPayload.live = 0;
    const rig = await scenario(1, plain, false);
    expect(rig.target.verified).toBeGreaterThan(3);
    expect(rig.target.counts['base']).toBeGreaterThan(0);
    expect(TestPayload.live).toBe(0);
  });

  const totals: Record<string, number> = {};
  test.each([
    ['memory only', plain],
    ['spool', spooled],
    ['tiny buffers', tiny],
  ])('%s', async (_name, options) => {
    for (let seed = 1; seed <= 12; seed++) {
      try {
        const rig = await scenario(seed, options, true);
        for (const [name, count] of Object.entries(rig.target.counts)) totals[name] = (totals[name] ?? 0) + count;
        const { counters } = rig.link.status;
        for (const [name, count] of Object.entries(counters)) totals[name] = (totals[name] ?? 0) + count;
        totals['verified'] = (totals['verified'] ?? 0) + rig.target.verified;
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
      }
    }
  });

  test('every way of retreat was taken', () => {
    for (const name of [
      'verified',
      'folded',
      'retreats',
      'spilledBytes',
      'digests',
      'syncWrite',
      'incarnationsLost',
      'base',
      'discard',
    ])
      expect([name, totals[name]]).toEqual([name, expect.any(Number)]);
    for (const name of ['verified', 'folded', 'retreats', 'spilledBytes', 'incarnationsLost'])
      expect([name, totals[name]! > 0]).toEqual([name, true]);
  });

  test.each<[PlantedBug, RigOptions, number]>([
    ['bitmap-begun-late', tiny, 40],
    ['stale-sync-read-wins', plain, 40],
    ['reused-sequence', plain, 20],
    ['checkpoint-while-syncing', plain, 20],
    ['sync-range-end-missing', plain, 2],
  ])('the planted bug %s is seen', async (bug, options, seeds) => {
    plant(bug);
    try {
      for (let seed = 1; seed <= seeds; seed++) {
        const found = await scenario(seed, options, true).then(
          () => undefined,
          (error: unknown) => error,
        );
        if (found !== undefined) return;
      }
    } finally {
      uprootAll();
    }
    throw new Error(`${bug} was not seen in ${seeds} seeds`);
  });
});
