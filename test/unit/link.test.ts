import { afterEach, describe, expect, test } from '@jest/globals';
import { plant, uprootAll } from '../../agent/src/core/planted.js';
import { Throttle } from '../../agent/src/link/throttle.js';
import { encodeJsonFrame, parseFrame } from '../../agent/src/stream/frame.js';
import { FrameType, heldSchema, releasedSchema } from '../../agent/src/stream/messages.js';
import { chunkBytes, Rig, type RigOptions } from './link-rig.js';

const KiB = 1024;

async function synced(seed: number, options: RigOptions = {}): Promise<Rig> {
  const rig = new Rig(seed, { checkpointIntervalMs: 1000, ...options });
  for (const disk of rig.disks) disk.set(rig.world.random.bytes(disk.length / 2), 0);
  rig.start();
  await rig.settle();
  return rig;
}

/** Overwrites the same `hotBytes` again and again for a while. */
async function churn(rig: Rig, seconds: number, hotBytes: number): Promise<void> {
  for (let step = 0; step < seconds * 10; step++) {
    for (let at = 0; at < hotBytes; at += 4096) void rig.write(0, at, rig.world.random.bytes(4096));
    await rig.wait(100);
  }
}

afterEach(() => uprootAll());

describe('sync', () => {
  test('initial: base data, one range a disk, then a checkpoint at once', async () => {
    const rig = await synced(1);
    expect(rig.target.counts).toMatchObject({ base: expect.any(Number), syncBegin: 2, syncEnd: 2 });
    expect(rig.target.counts['syncWrite']).toBeUndefined();
    await rig.finish();
  });

  test('a restarted agent sends digests and only what differs', async () => {
    const rig = await synced(2);
    rig.sourceHost.kill();
    rig.disks[0]!.fill(7, 3 * chunkBytes, 3 * chunkBytes + 10);
    rig.disks[1]!.fill(0, 0, chunkBytes);
    rig.start();
    await rig.settle();
    expect(rig.target.counts).toMatchObject({ digests: 2, syncWrite: 1, syncZero: 1 });
    expect(rig.target.incarnation).toBe(2);
    expect(rig.target.hello).toMatchObject({ epoch: 1, branch: 'a'.repeat(16) });
    await rig.finish();
  });

  test('a disk without a reader is missing until all of it was written', async () => {
    const rig = new Rig(3, { noReader: [1], checkpointIntervalMs: 1000 });
    rig.start();
    await rig.wait(3000);
    expect(rig.link.status.state).toBe('sync-unavailable');
    expect(rig.target.marks.at(-1)?.disksMissing).toEqual([6]);
    rig.zero(1, 0, rig.disks[1]!.length);
    await rig.settle();
    await rig.finish();
  });

  test('a failed write is read again', async () => {
    const rig = await synced(4);
    rig.fail(0, 5000, 9000);
    expect(rig.link.status.syncs).toMatchObject([{ disk: 'disk0', kind: 'bitmap' }]);
    await rig.settle();
    await rig.finish();
  });

  test('a disk that was not seen attached is in no complete checkpoint, and is synced when it is back', async () => {
    const rig = await synced(5);
    rig.group.setAttached(1, false);
    rig.disks[1]!.fill(9, 1000, 2000);
    await rig.wait(2500);
    expect(rig.target.marks.at(-1)?.disksMissing).toEqual([6]);
    rig.group.setAttached(1, true);
    await rig.settle();
    await rig.finish();
  });
});

describe('retreat', () => {
  const bounds = { bufferBytes: 256 * KiB, spoolBytes: 1024 * KiB };

  test.each([false, true])('folds, widens, keeps every tag (planted bug: %s)', async (planted) => {
    const rig = await synced(6, { bounds });
    if (planted) plant('fold-across-tagged');
    rig.target.paused = true;
    const tags: string[] = [];
    for (let round = 0; round < 3; round++) {
      await churn(rig, 10, 64 * KiB);
      tags.push(rig.group.tag(`round ${round}`)[0]!.mark!.id);
    }
    await churn(rig, 3, 64 * KiB);
    const { counters, stage } = rig.link.status;
    expect(stage).not.toBe('bitmap');
    expect(counters.folds).toBeGreaterThan(0);
    expect(counters.marksWidened).toBeGreaterThan(0);
    expect(counters.retreats).toBe(0);
    rig.target.paused = false;
    await rig.settle();
    const seen = rig.target.marks.map(({ id }) => id);
    expect(tags.every((id) => seen.includes(id))).toBe(!planted);
    await rig.finish();
  });

  test('a backlog on a slow link widens the interval, checkpoints keep coming', async () => {
    const rig = await synced(7, { bounds: { ...bounds, spoolBytes: 8192 * KiB, widenAfterMs: 2000 } });
    rig.world.network.setSpeed('source', 'target', { latencyMs: 5, bytesPerSecond: 60_000 });
    const before = rig.target.marks.length;
    await churn(rig, 60, 64 * KiB);
    expect(rig.link.status.counters.retreats).toBe(0);
    expect(rig.target.marks.length).toBeGreaterThan(before + 8);
    expect(rig.link.status.counters.marksWidened).toBeGreaterThan(0);
    await rig.settle();
    await rig.finish();
  });

  test('a spool that fails is a retreat, never an error for the guest', async () => {
    const rig = await synced(8, { bounds });
    rig.target.paused = true;
    rig.sourceHost.disk.capacityBytes = 0;
    await churn(rig, 5, 128 * KiB);
    const { counters, state, dirtyBytes } = rig.link.status;
    expect(counters.spoolErrors).toBeGreaterThan(0);
    expect(counters.retreats).toBe(1);
    expect(dirtyBytes).toBe(128 * KiB);
    expect(state).toBe('paused');
    rig.target.paused = false;
    await rig.settle();
    await rig.finish();
  });

  test('a damaged spool begins a new incarnation', async () => {
    const rig = await synced(9, { bounds });
    rig.target.paused = true;
    await churn(rig, 1, 128 * KiB);
    for (let count = 0; count < 50; count++) rig.sourceHost.disk.flipRandomBit((path) => path.includes('spool-'));
    rig.target.paused = false;
    await rig.settle();
    expect(rig.target.incarnation).toBe(2);
    expect(rig.events.map(({ code }) => code)).toContain('spool-unreadable');
    await rig.finish();
  });

  test('memory stays within its bound while the target hangs', async () => {
    const rig = await synced(10, { bounds: { bufferBytes: 512 * KiB } });
    rig.target.stalled = true;
    for (let step = 0; step < 400; step++) {
      rig.randomWrite(50_000);
      await rig.wait(5);
      expect(rig.link.status.bufferBytes).toBeLessThan(512 * KiB * 1.25 + 100_000);
    }
    rig.target.stalled = false;
    await rig.settle();
    await rig.finish();
  });
});

describe('session', () => {
  test('a durable regression begins a new incarnation with a delta sync', async () => {
    const rig = await synced(11);
    await rig.wait(1000);
    rig.target.durable -= 5;
    rig.link.disconnect('test');
    await rig.until(() => rig.target.incarnation === 2);
    await rig.settle();
    expect(rig.events.map(({ code }) => code)).toContain('durable-regression');
    await rig.finish();
  });

  test('a fence: the guest goes on, the bitmap takes it; a rollback brings it back in the same incarnation', async () => {
    const rig = await synced(12);
    rig.target.fenced = true;
    rig.link.disconnect('failover');
    await rig.until(() => rig.link.status.state === 'fenced');
    for (let count = 0; count < 50; count++) rig.randomWrite();
    expect(rig.link.status).toMatchObject({ stage: 'bitmap', refusal: { code: 'stale-epoch' } });
    rig.target.fenced = false;
    rig.target.epoch = 3;
    rig.target.branch = 'c'.repeat(16);
    rig.link.retry();
    await rig.settle();
    expect(rig.link.status).toMatchObject({ epoch: 3, incarnation: 1 });
    await rig.finish();
  });

  test('a target that knows less of the epoch is a fork', async () => {
    const rig = await synced(13);
    rig.target.branch = 'b'.repeat(16);
    rig.link.disconnect('test');
    await rig.until(() => rig.link.status.state === 'forked');
    await rig.finish();
  });

  test('a throttle bounds the rate', async () => {
    const rate = 50_000;
    const rig = new Rig(14, { throttle: (process) => new Throttle(process.clock, () => rate) });
    for (const disk of rig.disks) disk.set(rig.world.random.bytes(disk.length));
    const startMs = rig.world.nowMs;
    rig.start();
    await rig.settle();
    const seconds = (rig.world.nowMs - startMs) / 1000;
    expect(rig.link.status.sentBytes / seconds).toBeLessThan(rate * 1.1);
    expect(rig.link.status.sentBytes / seconds).toBeGreaterThan(rate * 0.8);
    await rig.finish();
  });

  test('barrier: mark at once, acknowledgements held until release', async () => {
    const rig = new Rig(15);
    rig.target.streamCount = 2;
    rig.start();
    await rig.until(() => rig.target.openSyncs.size === 0 && (rig.target.counts['syncEnd'] ?? 0) === 2);
    await rig.wait(10_000);
    expect(rig.target.marks).toEqual([]);
    const hold = (barrier: string, holdMsMax: number): void =>
      rig.target.connection!.send(
        encodeJsonFrame(FrameType.hold, { barrier, holdMsMax, checkpoint: { id: `id-${barrier}`, kind: 'crash' } }),
      );
    hold('one', 100);
    await rig.wait(20);
    let acknowledged = false;
    void rig.write(0, 0, new Uint8Array(512).fill(1))!.then(() => (acknowledged = true));
    await rig.wait(20);
    expect(acknowledged).toBe(false);
    rig.target.connection!.send(encodeJsonFrame(FrameType.release, { barrier: 'one' }));
    await rig.wait(20);
    expect(acknowledged).toBe(true);
    hold('two', 30);
    await rig.wait(100);
    expect(rig.write(0, 0, new Uint8Array(512).fill(2))).toBeUndefined();
    rig.target.connection!.send(encodeJsonFrame(FrameType.release, { barrier: 'two' }));
    await rig.wait(100);
    const frames = rig.target.frames;
    const held = frames
      .filter(({ type }) => type === FrameType.held)
      .map((frame) => parseFrame(heldSchema, frame).barrier);
    const released = frames
      .filter(({ type }) => type === FrameType.released)
      .map((frame) => parseFrame(releasedSchema, frame));
    expect(held).toEqual(['one', 'two']);
    expect(released).toEqual([
      { barrier: 'one', unbroken: true },
      { barrier: 'two', unbroken: false },
    ]);
    await rig.until(() => rig.target.marks.map(({ barrier }) => barrier).join() === 'one,two');
    await rig.finish();
  });

  test('a silent target is given up after three pings, and dialled again', async () => {
    const rig = await synced(16);
    rig.world.network.partition('source', 'target');
    await rig.until(() => !rig.link.isConnected, 25_000);
    rig.randomWrite();
    rig.world.network.heal('source', 'target');
    await rig.settle();
    await rig.finish();
  });
});
