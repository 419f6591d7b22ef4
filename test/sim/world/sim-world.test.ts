/** Hosts, network faults and virtual time: what dies stays dead, and a seed always gives the same run. */
import { describe, expect, test } from '@jest/globals';
import type { Connection } from '../../../agent/src/core/transport.js';
import { sleep } from '../../../agent/src/core/clock.js';
import type { SimHost } from './sim-host.js';
import { SimWorld } from './sim-world.js';

const never = new AbortController().signal;

interface Pair {
  readonly near: Connection;
  readonly far: Connection;
}

interface Heard {
  bytes: number;
  closes: string[];
  closedAtMs: number;
}

async function connect(world: SimWorld, from: SimHost, to: SimHost): Promise<Pair> {
  const listener = to.process!.listen(0);
  const accepted = new Promise<Connection>((resolve) => listener.onConnection(resolve));
  const near = await world.drive(from.process!.dialer.dial(listener.address, never));
  return { near, far: await accepted };
}

function hear(world: SimWorld, connection: Connection): Heard {
  const heard: Heard = { bytes: 0, closes: [], closedAtMs: NaN };
  connection.onData((chunk) => (heard.bytes += chunk.length));
  connection.onClose((reason) => {
    heard.closes.push(reason);
    heard.closedAtMs = world.nowMs;
  });
  return heard;
}

async function twoHosts(seed: number) {
  const world = new SimWorld(seed);
  const [a, b] = [world.addHost('a'), world.addHost('b')];
  a.start();
  b.start();
  const { near, far } = await connect(world, a, b);
  return { world, a, b, near, far, nearHeard: hear(world, near), farHeard: hear(world, far) };
}

describe('scheduler', () => {
  test('drains every promise before time moves on', async () => {
    const world = new SimWorld(1);
    const seen: string[] = [];
    const chain = async (): Promise<void> => {
      for (let index = 0; index < 1000; index++) await Promise.resolve();
      seen.push(`chain at ${world.nowMs}`);
    };
    world.scheduler.after(1, () => void chain());
    world.scheduler.after(1.001, () => void seen.push('next'));
    expect(await world.run()).toBe('idle');
    expect(seen).toEqual(['chain at 1', 'next']);
  });

  test('stops at a time, at a condition, and throws on an endless run', async () => {
    const world = new SimWorld(1);
    let count = 0;
    const tick = (): void => {
      count += 1;
      world.scheduler.after(1, tick);
    };
    tick();
    expect(await world.run({ untilMs: 10.5 })).toBe('time');
    expect([count, world.nowMs]).toEqual([11, 10.5]);
    expect(await world.run({ until: () => count === 20 })).toBe('until');
    await expect(world.run({ eventCountMax: 50 })).rejects.toThrow('no end');
    await expect(world.drive(new Promise(() => undefined), 5)).rejects.toThrow('still pending');
  });

  test('one seed, one run', async () => {
    const runOf = async (seed: number): Promise<string> => {
      const { world, a, near, farHeard } = await twoHosts(seed);
      const file = await world.drive(a.process!.storage.open('/f', 'create'));
      for (let index = 0; index < 50; index++) {
        near.send([a.process!.random.bytes(world.random.int(5000))]);
        await world.drive(file.write(a.process!.random.bytes(1000), world.random.int(100_000)));
      }
      a.powerCut();
      await world.run();
      return JSON.stringify([world.scheduler.fingerprint, world.nowMs, world.scheduler.eventCount, farHeard.bytes]);
    };
    expect(await runOf(1)).toBe(await runOf(1));
    expect(await runOf(1)).not.toBe(await runOf(2));
  });
});

describe('hosts', () => {
  test('after a death no timer, I/O or data reaches the old code; a restart gets a new process', async () => {
    const { world, a, far, nearHeard, farHeard, near } = await twoHosts(1);
    const { clock, storage, dialer } = a.process!;
    const old = a.process!;
    const fired: string[] = [];
    clock.after(5, () => fired.push('timer'));
    void storage.open('/f', 'create').then(() => fired.push('I/O'));
    void dialer.dial('b:1', never).catch(() => fired.push('dial'));
    far.send([new Uint8Array(1000)]);
    a.kill();
    near.send([new Uint8Array(1000)]);
    void storage.exists('/f').then(() => fired.push('late I/O'));
    await world.run();
    expect(fired).toEqual([]);
    expect(nearHeard).toMatchObject({ bytes: 0, closes: [] });
    expect(farHeard.closes).toHaveLength(1);
    expect(farHeard.bytes).toBe(0);
    expect(old.alive).toBe(false);
    expect(a.start().alive).toBe(true);
    expect(() => a.start()).toThrow('already runs');
  });

  test('after a power cut the peer is not told; half of the peers are when the host is back', async () => {
    let told = 0;
    for (let seed = 1; seed <= 40; seed++) {
      const { world, a, farHeard } = await twoHosts(seed);
      a.powerCut();
      await world.run();
      expect(farHeard.closes).toEqual([]);
      a.start();
      await world.run();
      told += farHeard.closes.length;
    }
    expect(told).toBeGreaterThan(8);
    expect(told).toBeLessThan(32);
  });

  test('crashAfterIo dies after the effect and before the caller hears of it', async () => {
    const world = new SimWorld(1);
    const a = world.addHost('a');
    const { storage } = a.start();
    const deaths: string[] = [];
    a.onDeath = (kind) => deaths.push(kind);
    a.crashAfterIo(3, 'kill');
    let steps = 0;
    void (async () => {
      const file = await storage.open('/f', 'create');
      steps += 1;
      await file.write(new Uint8Array(10), 0);
      steps += 1;
      await file.write(new Uint8Array(10), 10);
      steps += 1;
    })();
    await world.run();
    expect([steps, deaths, a.process]).toEqual([2, ['kill'], undefined]);
    expect(a.disk.peek('/f')).toHaveLength(20);
  });

  test('wall clocks may jump, monotonic ones do not', async () => {
    const world = new SimWorld(1);
    const a = world.addHost('a');
    const { clock } = a.start();
    const [wall, monotonic] = [clock.wallMs(), clock.monotonicMs()];
    a.wallOffsetMs = -3_600_000;
    await world.drive(sleep(clock, 10));
    expect(clock.wallMs()).toBe(wall - 3_600_000 + 10);
    expect(clock.monotonicMs()).toBe(monotonic + 10);
  });
});

describe('network', () => {
  test('a cut loses bytes under way, and the ends hear of it apart', async () => {
    const { world, near, nearHeard, farHeard } = await twoHosts(3);
    near.send([new Uint8Array(1_000_000)]);
    await world.run({ untilMs: world.nowMs + 3 });
    world.network.cut(world.network.pairs('a', 'b')[0]!);
    const before = farHeard.bytes;
    await world.run();
    expect(before).toBeLessThan(1_000_000);
    expect(farHeard.bytes).toBe(before);
    expect(nearHeard.closes).toEqual(['connection reset']);
    expect(farHeard.closes).toEqual(['connection reset']);
    expect(nearHeard.closedAtMs).not.toBe(farHeard.closedAtMs);
    expect(world.network.pairs()).toHaveLength(0);
  });

  test('half-open: the silent end goes on sending into nothing', async () => {
    const { world, near, nearHeard, farHeard } = await twoHosts(4);
    const cutMs = world.nowMs;
    world.network.cut(world.network.pairs()[0]!, { silentHost: 'a', silentMs: 60_000 });
    await world.run({ untilMs: cutMs + 30_000 });
    near.send([new Uint8Array(1000)]);
    expect([nearHeard.closes.length, farHeard.closes.length]).toEqual([0, 1]);
    await world.run();
    expect(near.queuedBytes).toBe(1000);
    expect(nearHeard.closedAtMs).toBe(cutMs + 60_000);
    expect(farHeard.bytes).toBe(0);
  });

  test('a partition stops bytes and dials and keeps connections; after it they arrive in order', async () => {
    const { world, a, b, near, farHeard } = await twoHosts(5);
    const chunks: Uint8Array[] = [];
    const { near: near2, far: far2 } = await connect(world, a, b);
    far2.onData((chunk) => chunks.push(new Uint8Array(chunk)));
    const sent = a.process!.random.bytes(200_000);
    near2.send([sent.subarray(0, 100_000)]);
    world.network.partition('a', 'b');
    near.send([new Uint8Array(10)]);
    await expect(world.drive(a.process!.dialer.dial('b:1', never))).rejects.toMatchObject({ code: 'peer-unreachable' });
    expect(farHeard.bytes).toBe(0);
    world.network.heal('a', 'b');
    near2.send([sent.subarray(100_000)]);
    await world.run();
    expect(farHeard.bytes).toBe(10);
    expect(Buffer.compare(Buffer.concat(chunks), sent)).toBe(0);
  });

  test('bandwidth is kept, and shared by the connections of a link', async () => {
    const { world, near, farHeard, a, b } = await twoHosts(6);
    const second = await connect(world, a, b);
    const secondHeard = hear(world, second.far);
    world.network.setSpeed('a', 'b', { bytesPerSecond: 1_000_000 });
    const startMs = world.nowMs;
    near.send([new Uint8Array(1_000_000)]);
    second.near.send([new Uint8Array(1_000_000)]);
    await world.run();
    expect([farHeard.bytes, secondHeard.bytes]).toEqual([1_000_000, 1_000_000]);
    expect(world.nowMs - startMs).toBeGreaterThan(2000);
    expect(world.nowMs - startMs).toBeLessThan(2100);
  });

  test('the stream is split at arbitrary places', async () => {
    const { world, near, far } = await twoHosts(7);
    const sizes: number[] = [];
    far.onData((chunk) => sizes.push(chunk.length));
    for (let index = 0; index < 20; index++) near.send([new Uint8Array(50_000), new Uint8Array(3)]);
    await world.run();
    expect(sizes.some((size) => size < 64)).toBe(true);
    expect(sizes.some((size) => size > 50_003)).toBe(true);
  });
});
