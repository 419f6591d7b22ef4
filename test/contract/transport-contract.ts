/** What every transport (Dialer, Listener, Connection) must do. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Clock } from '../../agent/src/core/clock.js';
import type { Connection, Dialer, Listener } from '../../agent/src/core/transport.js';

export interface TransportFixture {
  /** Dials as the peer `source`. */
  readonly dialer: Dialer;
  /** Dials with a certificate that the listener does not trust. */
  readonly strangerDialer: Dialer;
  /** A listener of the peer `target`. */
  readonly listen: () => Promise<Listener>;
  readonly clock: Clock;
  readonly drive: <T>(promise: Promise<T>) => Promise<T>;
  readonly dispose: () => Promise<void>;
}

interface Pair {
  readonly near: Connection;
  readonly far: Connection;
}

const never = new AbortController().signal;

export function describeTransport(name: string, create: () => Promise<TransportFixture>): void {
  describe(`transport contract: ${name}`, () => {
    let fixture: TransportFixture;
    let listener: Listener;

    beforeEach(async () => {
      fixture = await create();
      listener = await fixture.listen();
    });
    afterEach(async () => {
      await fixture.drive(listener.close());
      await fixture.dispose();
    });

    const scenario = (title: string, run: () => Promise<void>): void => test(title, () => fixture.drive(run()));

    async function connect(): Promise<Pair> {
      const accepted = new Promise<Connection>((resolve) => listener.onConnection(resolve));
      const near = await fixture.dialer.dial(listener.address, never);
      return { near, far: await accepted };
    }

    /** Waits on a condition; the caller's test has the deadline. */
    async function until(condition: () => boolean): Promise<void> {
      while (!condition()) await new Promise<void>((resolve) => fixture.clock.after(2, resolve));
    }

    scenario('both ends know each other by certificate', async () => {
      const { near, far } = await connect();
      expect(near.peer).toEqual({ name: 'target', address: listener.address });
      expect(far.peer.name).toBe('source');
      expect(far.peer.address).toMatch(/:\d+$/);
    });

    scenario('bytes arrive in order and whole, both ways, whatever the pieces', async () => {
      const { near, far } = await connect();
      const [there, back] = [collect(far), collect(near)];
      const pieces = Array.from({ length: 400 }, (_, index) => Buffer.alloc((index * 37) % 9000, index));
      for (let index = 0; index < pieces.length; index += 4) near.send(pieces.slice(index, index + 4));
      near.send([]);
      far.send([Buffer.from('answer')]);
      const expected = Buffer.concat(pieces);
      await until(() => there().length === expected.length && back().length === 6);
      expect(Buffer.compare(there(), expected)).toBe(0);
      expect(back().toString()).toBe('answer');
    });

    scenario('what arrives before the handlers are set waits for them', async () => {
      const { near, far } = await connect();
      far.send([Buffer.from('early')]);
      await pass(20);
      const bytes = collect(near);
      await until(() => bytes().length === 5);
      expect(bytes().toString()).toBe('early');
    });

    scenario('a paused reader fills the queue of the writer; reading drains it, with one call', async () => {
      const { near, far } = await connect();
      const bytes = collect(far);
      far.pause();
      let drainCount = 0;
      near.onDrain(() => (drainCount += 1));
      const piece = Buffer.alloc(1 << 20, 5);
      for (let index = 0; index < 32; index++) near.send([piece]);
      await pass(100);
      expect(near.queuedBytes).toBeGreaterThan(8 << 20);
      expect(drainCount).toBe(0);
      expect(bytes().length).toBe(0);
      far.resume();
      await until(() => bytes().length === 32 << 20);
      await until(() => drainCount > 0);
      expect(near.queuedBytes).toBe(0);
      expect(drainCount).toBe(1);
    });

    scenario('close: each end hears once, with the reason, and never inside the call', async () => {
      const { near, far } = await connect();
      const [nearReasons, farReasons] = [reasons(near), reasons(far)];
      collect(far);
      collect(near);
      near.close('enough');
      near.close('again');
      expect(nearReasons).toEqual([]);
      await until(() => nearReasons.length > 0 && farReasons.length > 0);
      far.close('late');
      near.send([Buffer.from('nothing')]);
      await pass(50);
      expect(nearReasons).toEqual(['enough']);
      expect(farReasons).toHaveLength(1);
    });

    scenario('a handler set after the close still hears of it', async () => {
      const { near, far } = await connect();
      collect(far);
      near.close('enough');
      await pass(50);
      const [nearReasons, farReasons] = [reasons(near), reasons(far)];
      await until(() => nearReasons.length > 0 && farReasons.length > 0);
      expect(nearReasons).toEqual(['enough']);
    });

    scenario('what was sent before a close still arrives', async () => {
      const { near, far } = await connect();
      const bytes = collect(far);
      const farReasons = reasons(far);
      near.send([Buffer.alloc(300_000, 3), Buffer.from('last')]);
      near.close('done');
      await until(() => farReasons.length > 0);
      expect(bytes().length).toBe(300_004);
      expect(bytes().subarray(-4).toString()).toBe('last');
    });

    scenario('after its own close an end hears no more data', async () => {
      const { near, far } = await connect();
      const bytes = collect(near);
      far.send([Buffer.alloc(100_000)]);
      near.close('deaf');
      const closed = bytes().length;
      await pass(50);
      expect(bytes().length).toBe(closed);
    });

    scenario('nobody listening: peer-unreachable', async () => {
      const other = await fixture.listen();
      const { address } = other;
      await other.close();
      await expect(fixture.dialer.dial(address, never)).rejects.toMatchObject({ code: 'peer-unreachable' });
    });

    scenario('an untrusted certificate: peer-refused, and the listener never sees it', async () => {
      let seen = 0;
      listener.onConnection(() => (seen += 1));
      for (let index = 0; index < 5; index++) {
        await expect(fixture.strangerDialer.dial(listener.address, never)).rejects.toMatchObject({
          code: 'peer-refused',
        });
      }
      expect(seen).toBe(0);
    });

    scenario('an aborted dial rejects with the reason', async () => {
      const before = AbortSignal.abort(new Error('no need'));
      await expect(fixture.dialer.dial(listener.address, before)).rejects.toThrow('no need');
      const abort = new AbortController();
      const dialled = fixture.dialer.dial(listener.address, abort.signal);
      abort.abort(new Error('enough'));
      await expect(dialled).rejects.toThrow('enough');
    });

    scenario('a closed listener closes what it accepted and accepts no more', async () => {
      const { near, far } = await connect();
      const [nearReasons, farReasons] = [reasons(near), reasons(far)];
      collect(near);
      collect(far);
      const { address } = listener;
      await listener.close();
      await listener.close();
      await until(() => nearReasons.length === 1 && farReasons.length === 1);
      await expect(fixture.dialer.dial(address, never)).rejects.toMatchObject({ code: 'peer-unreachable' });
    });

    scenario('many connections at once stay apart', async () => {
      const received = new Map<string, () => Buffer>();
      listener.onConnection((far) => {
        const bytes = collect(far);
        received.set(far.peer.address, bytes);
        far.send([Buffer.from('hello')]);
      });
      const dials = Array.from({ length: 20 }, () => fixture.dialer.dial(listener.address, never));
      const nears = await Promise.all(dials);
      const back = nears.map(collect);
      for (const [index, near] of nears.entries()) near.send([Buffer.alloc(1000, index)]);
      await until(() => back.every((bytes) => bytes().length === 5));
      await until(() => received.size === 20 && [...received.values()].every((bytes) => bytes().length === 1000));
      const firsts = [...received.values()].map((bytes) => bytes()[0]!);
      expect(new Set(firsts).size).toBe(20);
      for (const bytes of received.values()) expect(new Set(bytes()).size).toBe(1);
    });

    function pass(delayMs: number): Promise<void> {
      return new Promise((resolve) => fixture.clock.after(delayMs, resolve));
    }
  });
}

function collect(connection: Connection): () => Buffer {
  const chunks: Uint8Array[] = [];
  connection.onData((chunk) => chunks.push(new Uint8Array(chunk)));
  return () => Buffer.concat(chunks);
}

function reasons(connection: Connection): string[] {
  const heard: string[] = [];
  connection.onClose((reason) => heard.push(reason));
  return heard;
}
