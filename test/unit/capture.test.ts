import { describe, expect, test } from '@jest/globals';
import { RecordKind } from '../../agent/src/block/record.js';
import { AckGate } from '../../agent/src/capture/ack-gate.js';
import type { Clock } from '../../agent/src/core/clock.js';
import { CheckpointTimer } from '../../agent/src/capture/checkpoint-timer.js';
import { Histogram } from '../../agent/src/capture/histogram.js';
import { InPathExport } from '../../agent/src/capture/in-path-export.js';
import { MirrorExport } from '../../agent/src/capture/mirror-export.js';
import { RangeLock } from '../../agent/src/capture/range-lock.js';
import { SourceTime } from '../../agent/src/capture/source-time.js';
import { checkpointId } from '../../agent/src/core/ids.js';
import { TidemarkError } from '../../agent/src/core/errors.js';
import type { Change } from '../../agent/src/link/link-capture.js';
import { Rig, TestPayload } from './link-rig.js';
import { SimWorld } from '../sim/world/sim-world.js';

/** A memory disk whose writes end when told to. */
class SlowDisk {
  readonly sizeBytes: number;
  readonly log: string[] = [];
  readonly pending: { name: string; finish: (error?: Error) => void }[] = [];
  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }
  private step(name: string): Promise<void> {
    this.log.push(name);
    return new Promise((resolve, reject) =>
      this.pending.push({ name, finish: (error) => (error === undefined ? resolve() : reject(error)) }),
    );
  }
  read(target: Uint8Array): Promise<void> {
    target.fill(7);
    return Promise.resolve();
  }
  write(_bytes: Uint8Array, offset: number, fua = false): Promise<void> {
    return this.step(`write ${offset}${fua ? ' fua' : ''}`);
  }
  zero(offset: number): Promise<void> {
    return this.step(`zero ${offset}`);
  }
  flush(): Promise<void> {
    return this.step('flush');
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function inPath(): { disk: SlowDisk; exported: InPathExport; captured: Change[]; unknown: number[][] } {
  const rig = new Rig(1);
  rig.start();
  const captured: Change[] = [];
  const unknown: number[][] = [];
  rig.group.capture = (change) => {
    captured.push(change);
    return undefined;
  };
  rig.group.contentUnknown = (...args) => void unknown.push(args);
  const disk = new SlowDisk(rig.disks[0]!.length);
  return { disk, exported: new InPathExport(rig.group, 0, disk), captured, unknown };
}

describe('in-path export', () => {
  test('upstream first, then the sequence; overlapping writes one after the other', async () => {
    const { disk, exported, captured } = inPath();
    const done: string[] = [];
    const write = (name: string, offset: number, fua: boolean): void =>
      void exported.write(offset, new TestPayload(new Uint8Array(100)), fua).then(() => done.push(name));
    write('a', 0, false);
    write('b', 50, true);
    write('c', 300, false);
    expect(disk.log).toEqual(['write 0', 'write 300']);
    expect(captured).toEqual([]);
    disk.pending[1]!.finish();
    await turn();
    expect([done, captured.map(({ offsetBytes }) => offsetBytes)]).toEqual([['c'], [300]]);
    disk.pending[0]!.finish();
    await turn();
    expect(disk.log).toEqual(['write 0', 'write 300', 'write 50 fua']);
    disk.pending[2]!.finish();
    await turn();
    expect([done, captured.map(({ offsetBytes }) => offsetBytes)]).toEqual([
      ['c', 'a', 'b'],
      [300, 0, 50],
    ]);
  });

  test('a write that fails upstream marks its range and errs', async () => {
    const { disk, exported, captured, unknown } = inPath();
    const result = exported.write(10, new TestPayload(new Uint8Array(20)), false);
    disk.pending[0]!.finish(new TidemarkError('storage-full', 'full'));
    await expect(result).rejects.toMatchObject({ code: 'ENOSPC' });
    expect([captured, unknown]).toEqual([[], [[0, 10, 20]]]);
    const again = exported.write(10, new TestPayload(new Uint8Array(20)), false);
    disk.pending[1]!.finish();
    await again;
    expect(captured).toHaveLength(1);
  });

  test('trim zeroes upstream and is captured as a discard; flush and FUA go through', async () => {
    const { disk, exported, captured } = inPath();
    const trim = exported.trim(0, 100, true);
    disk.pending[0]!.finish();
    await turn();
    expect(captured).toEqual([]);
    disk.pending[1]!.finish();
    await trim;
    expect(captured).toMatchObject([{ kind: RecordKind.discard, offsetBytes: 0, lengthBytes: 100 }]);
    void exported.flush();
    expect(disk.log).toEqual(['zero 0', 'flush', 'flush']);
  });
});

describe('mirror export', () => {
  test('answers in the same turn; reads need a reader; a long write becomes several records', async () => {
    const rig = new Rig(2, { noReader: [1], diskBytes: [4 * 1024 * 1024, 65_536] });
    rig.start();
    await rig.until(() => rig.link.isConnected);
    rig.zero(1, 0, 65_536);
    await rig.settle();
    const mirror = new MirrorExport(rig.group, 0);
    const bytes = rig.world.random.bytes(3 * 1024 * 1024 + 5);
    rig.disks[0]!.set(bytes, 512);
    const before = rig.link.status.sequenceGiven;
    const payload = new TestPayload(bytes);
    payload.retain();
    expect(mirror.write(512, payload)).toBeUndefined();
    payload.release();
    expect(rig.link.status.sequenceGiven).toBe(before + 4);
    expect(mirror.flush()).toBeUndefined();
    rig.disks[0]!.fill(0, 0, 4096);
    expect(mirror.trim(0, 4096)).toBeUndefined();
    await expect(new MirrorExport(rig.group, 1).read(new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'ENOTSUP' });
    await rig.settle();
    await rig.finish();
  });
});

test('range lock: first come, first served', async () => {
  const lock = new RangeLock();
  const order: string[] = [];
  const a = lock.acquire(0, 10) as () => void;
  const b = Promise.resolve(lock.acquire(5, 10)).then((release) => (order.push('b'), release));
  const c = Promise.resolve(lock.acquire(12, 5)).then((release) => (order.push('c'), release));
  expect(typeof lock.acquire(100, 5)).toBe('function');
  a();
  (await b)();
  (await c)();
  expect(order).toEqual(['b', 'c']);
});

describe('gate, time, timer', () => {
  test('two barriers: open when both are over; a time-out breaks its own', async () => {
    const world = new SimWorld(1);
    const gate = new AckGate(world.addHost('h').start().clock);
    gate.hold('a', 100);
    gate.hold('b', 20);
    const wait = gate.wait;
    await world.run({ untilMs: 50 });
    expect(gate.wait).toBe(wait);
    expect(gate.release('a')).toBe(true);
    expect(gate.wait).toBeUndefined();
    await wait;
    expect([gate.release('b'), gate.release('c'), gate.brokenCount]).toEqual([false, false, 1]);
  });

  test('source time never goes back', async () => {
    const world = new SimWorld(2);
    const host = world.addHost('h');
    const time = new SourceTime(host.start().clock);
    const first = time.nowMs();
    host.wallOffsetMs = -1e9;
    world.scheduler.after(10, () => undefined);
    await world.run({ untilMs: 10 });
    expect(time.nowMs()).toBeCloseTo(first + 10, 3);
    time.raise(first + 5000);
    expect(time.nowMs()).toBeCloseTo(first + 5000, 3);
    const ids = [
      checkpointId(world.random, first),
      checkpointId(world.random, first + 1),
      checkpointId(world.random, first + 40),
    ];
    expect([...ids].sort()).toEqual(ids);
    expect(ids[0]).toMatch(/^[0-9a-z]{16}$/);
  });

  test('the timer keeps its grid', async () => {
    const world = new SimWorld(3);
    const { clock } = world.addHost('h').start();
    const startMs = clock.monotonicMs();
    const due: number[] = [];
    const timer = new CheckpointTimer(clock, 10, (dueMs) => due.push(Math.round(dueMs - startMs)));
    await world.run({ untilMs: 3500 });
    timer.stop();
    await world.run({ untilMs: 9000 });
    expect(due).toEqual([1000, 2000, 3000]);
  });

  test('a timer that comes a moment too early is not the last', async () => {
    const world = new SimWorld(4);
    const { clock } = world.addHost('h').start();
    const early: Clock = {
      monotonicMs: () => clock.monotonicMs(),
      wallMs: () => clock.wallMs(),
      after: (delayMs, fire) => clock.after(Math.max(0, delayMs - 1e-7), fire),
    };
    let count = 0;
    const timer = new CheckpointTimer(early, 1000, () => count++);
    await world.run({ untilMs: 5500 });
    timer.stop();
    expect(count).toBe(5);
  });

  test('histogram percentiles', () => {
    const histogram = new Histogram();
    for (let value = 1; value <= 1000; value++) histogram.add(value);
    expect(histogram.quantileUs(0.5)).toBeGreaterThan(400);
    expect(histogram.quantileUs(0.5)).toBeLessThan(650);
    expect(histogram.quantileUs(1)).toBe(1000);
  });
});
