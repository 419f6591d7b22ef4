/**
 * Broken and hostile byte streams against a living server: random bytes, mutated dialogues, cut at random places. The
 * server may refuse or drop, never fail: a good client works afterwards and no memory is held. Seed: TIDEMARK_FUZZ_SEED.
 */
import { expect, test } from '@jest/globals';
import { connect } from 'node:net';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { encodeRequest } from '../../agent/src/nbd/codec.js';
import { ReplyReader } from '../../agent/src/nbd/reply-reader.js';
import { isTidemarkError } from '../../agent/src/core/errors.js';
import { optionMagic } from '../../agent/src/nbd/protocol.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { contextData, goData, MemoryBackend, startServer } from '../unit/nbd-support.js';

const seed = Number(process.env['TIDEMARK_FUZZ_SEED'] ?? Date.now() & 0x7fffffff);
const boundMs = 8_000;

/** mulberry32 */
function generator(state: number): (below: number) => number {
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

type Random = (below: number) => number;

function bytesOf(random: Random, lengthBytes: number): Buffer {
  return Buffer.from(Array.from({ length: lengthBytes }, () => random(256)));
}

function option(kind: number, data: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.writeBigUInt64BE(optionMagic, 0);
  header.writeUInt32BE(kind, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

/** A dialogue that is right most of the time, then damaged. */
function dialogue(random: Random): Buffer {
  const flags = Buffer.from([0, 0, 0, random(4)]);
  const parts: Buffer[] = [flags];
  for (let count = random(3); count > 0; count--) parts.push(option(2 + random(12), bytesOf(random, random(40))));
  if (random(2) === 0) parts.push(option(8, Buffer.alloc(0)), option(10, contextData('d', ['base:allocation'])));
  if (random(10) > 0)
    parts.push(option(random(5) === 0 ? 1 : 7, random(5) === 0 ? Buffer.from('d') : goData('d', [3])));
  for (let count = random(30); count > 0; count--) {
    const command = [0, 1, 3, 4, 6, 7, random(9), random(9)][random(8)]!;
    const flags = random(4) === 0 ? random(20) : random(2);
    const lengthBytes = [512, 4096, 65_536, 65_536, [0, 1, 70_000, 0xffffffff][random(4)]!][random(5)]!;
    const offsetBytes = [
      0,
      512,
      65_536,
      655_360,
      4096,
      [random(1 << 20), 2 ** 40, Number.MAX_SAFE_INTEGER][random(3)]!,
    ][random(6)]!;
    const cookies = { cookieHigh: random(2 ** 32), cookieLow: count };
    parts.push(encodeRequest({ flags, command, ...cookies, offsetBytes, lengthBytes }));
    if (command === 1 && lengthBytes < 100_000) parts.push(Buffer.alloc(lengthBytes, count));
  }
  const whole = Buffer.concat(parts);
  for (let flips = random(2) * random(5); flips > 0; flips--) whole[random(whole.length)] = random(256);
  return random(3) === 0 ? whole.subarray(0, random(whole.length)) : whole;
}

/** Sends the bytes in a few pieces, reads or does not, and resolves when the connection is over (at most 150 ms). */
function attack(path: string, bytes: Buffer, random: Random): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    const timer = setTimeout(() => socket.destroy(), 150);
    const cut = random(bytes.length + 1);
    const leaves = random(8);
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve();
    });
    if (random(4) > 0) socket.resume();
    socket.write(bytes.subarray(0, cut), () => {
      if (leaves === 0) socket.destroy();
      else if (leaves < 5) socket.end(bytes.subarray(cut), () => socket.resume());
      else socket.write(bytes.subarray(cut), () => setTimeout(() => socket.destroy(), leaves));
    });
  });
}

test(`the server outlives hostile clients (seed ${seed})`, async () => {
  const random = generator(seed);
  await using host = await startServer({ handshakeMs: 300 });
  const disk = new MemoryBackend(1 << 20, 512);
  const later = new MemoryBackend(1 << 20);
  host.server.addExport('d', disk);
  host.server.addExport('good', later);
  const deadline = Date.now() + boundMs;
  let attacks = 0;
  while (Date.now() < deadline && attacks < 20_000) {
    disk.hold = random(2) === 0 ? undefined : new Promise((resolve) => setTimeout(resolve, random(3)));
    const batch = Array.from({ length: 8 }, () => {
      const bytes = random(6) === 0 ? bytesOf(random, random(3000)) : dialogue(random);
      return attack(host.path, bytes, random);
    });
    await Promise.all(batch);
    attacks += batch.length;
  }
  disk.hold = undefined;
  expect(attacks).toBeGreaterThan(100);
  // Most dialogues must get as far as the backend, or this test tests the handshake alone.
  expect(disk.calls).toBeGreaterThan(attacks);
  expect(host.faults).toEqual([]);
  const client = await NbdClient.open(host.uri('good'), { clock: nodeClock });
  await client.write(Buffer.from('still here'), 0);
  await client.close();
  expect(later.bytes.toString('utf8', 0, 10)).toBe('still here');
  await host.server.close({ graceMs: 1_000 });
  expect(host.server.connectionCounts.current).toBe(0);
  expect(disk.clients).toBe(0);
  expect(host.slabs.status().heldBytes).toBe(0);
});

test(`the client's reader refuses what a hostile server sends (seed ${seed})`, () => {
  const random = generator(seed);
  let refused = 0;
  for (let round = 0; round < 5_000; round++) {
    const target = Buffer.alloc(4096);
    const guard = { command: random(2) * 7, offsetBytes: 512, lengthBytes: 4096, target };
    const expected = { ...guard, receivedBytes: 0, extents: undefined, error: undefined };
    const reader = new ReplyReader(
      (cookie) => (cookie < 4 ? expected : undefined),
      () => undefined,
    );
    const bytes = Buffer.concat(
      Array.from({ length: 1 + random(3) }, () => {
        const header = Buffer.alloc(20);
        header.writeUInt32BE(random(2) === 0 ? 0x668e33ef : 0x67446698, 0);
        header.writeUInt16BE(random(2), 4);
        header.writeUInt16BE([0, 1, 2, 5, 0x8001, random(65536)][random(6)]!, 6);
        header.writeUInt32BE(random(5), 12);
        header.writeUInt32BE([0, 6, 12, 520, random(2 ** 32)][random(5)]!, 16);
        return Buffer.concat([header, bytesOf(random, random(60))]);
      }),
    );
    try {
      for (let at = 0; at < bytes.length;) {
        const step = 1 + random(50);
        reader.receive(bytes.subarray(at, at + step));
        at += step;
      }
    } catch (error) {
      expect(isTidemarkError(error, 'protocol-error')).toBe(true);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(1_000);
});
