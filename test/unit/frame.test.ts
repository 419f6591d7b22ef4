import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { isTidemarkError } from '../../agent/src/core/errors.js';
import {
  chunkDigest,
  decodeDigests,
  decodeNeed,
  encodeDigests,
  encodeNeed,
  isZero,
} from '../../agent/src/stream/digests.js';
import { encodeFrame, encodeJsonFrame, FrameDecoder, parseFrame, type Frame } from '../../agent/src/stream/frame.js';
import { digestBytes, FrameType, pingSchema } from '../../agent/src/stream/messages.js';

function cut(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  let at = 0;
  for (const size of cuts) {
    chunks.push(bytes.subarray(at, at + size));
    at += size;
  }
  chunks.push(bytes.subarray(at));
  return chunks;
}

describe('frames', () => {
  test('any cut of the bytes gives the same frames', () => {
    const message = fc.tuple(
      fc.constantFrom(FrameType.block, FrameType.digests, FrameType.ping),
      fc.uint8Array({ maxLength: 200 }),
    );
    fc.assert(
      fc.property(fc.array(message, { maxLength: 8 }), fc.array(fc.nat(64), { maxLength: 40 }), (messages, cuts) => {
        const bytes = Buffer.concat(messages.flatMap(([type, payload]) => encodeFrame(type, [payload])));
        const decoder = new FrameDecoder();
        const seen: Frame[] = [];
        for (const chunk of cut(bytes, cuts)) decoder.push(chunk, (frame) => seen.push(frame));
        expect(seen.map(({ type, payload }) => [type, [...payload]])).toEqual(
          messages.map(([type, payload]) => [type, [...payload]]),
        );
        expect(decoder.bufferedBytes).toBe(0);
      }),
    );
  });

  test.each([
    ['magic', [0x55, 1, 0, 0, 0, 0, 0, 0]],
    ['unknown type', [0x54, 99, 0, 0, 0, 0, 0, 0]],
    ['type 0', [0x54, 0, 0, 0, 0, 0, 0, 0]],
    ['reserved', [0x54, 6, 1, 0, 0, 0, 0, 0]],
    ['length', [0x54, 6, 0, 0, 1, 1, 0, 0]],
    ['not accepted', [0x54, FrameType.block, 0, 0, 1, 0, 0, 0]],
  ])('refuses a bad header: %s', (_name, bytes) => {
    const decoder = new FrameDecoder(new Set([FrameType.ping, FrameType.hello]));
    const push = (): void => decoder.push(Uint8Array.from(bytes), () => undefined);
    expect(push).toThrow(expect.objectContaining({ code: 'protocol-error' }));
    expect(() => decoder.push(encodeJsonFrame(FrameType.ping, {})[0]!, () => undefined)).toThrow();
  });

  test('random bytes are refused or framed, never anything else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        try {
          new FrameDecoder().push(bytes, () => undefined);
        } catch (error) {
          expect(isTidemarkError(error, 'protocol-error')).toBe(true);
        }
      }),
    );
  });

  test('JSON payloads are checked', () => {
    const payload = (text: string): Frame => ({ type: FrameType.ping, payload: Buffer.from(text) });
    expect(parseFrame(pingSchema, payload('{"id":1,"wallMs":2}'))).toEqual({ id: 1, wallMs: 2 });
    for (const text of ['', '{', '{"id":1}', '{"id":1,"wallMs":2,"x":3}', '\xff']) {
      expect(() => parseFrame(pingSchema, payload(text))).toThrow(expect.objectContaining({ code: 'protocol-error' }));
    }
  });
});

describe('digest messages', () => {
  test('round trip', () => {
    const digests = Buffer.concat([chunkDigest(Buffer.alloc(100)), chunkDigest(Buffer.from('x'))]);
    expect(isZero(digests.subarray(0, digestBytes))).toBe(true);
    const message = { requestId: 7, disk: 3, firstChunk: 2 ** 33, digests };
    const decoded = decodeDigests(Buffer.concat(encodeDigests(message)));
    expect({ ...decoded, digests: Buffer.from(decoded.digests) }).toEqual(message);
    const need = { requestId: 7, disk: 3, firstChunk: 9, count: 11, bits: Buffer.from([0xff, 0x07]) };
    expect(decodeNeed(Buffer.concat(encodeNeed(need)))).toEqual(need);
    const bad = Buffer.concat(encodeNeed({ ...need, bits: Buffer.from([0xff, 0x08]) }));
    expect(() => decodeNeed(bad)).toThrow(expect.objectContaining({ code: 'protocol-error' }));
  });

  test('zero test', () => {
    expect(isZero(new Uint8Array(65_536))).toBe(true);
    for (const at of [0, 1, 500, 999]) {
      const bytes = new Uint8Array(1000);
      bytes[at] = 1;
      expect(isZero(bytes)).toBe(false);
    }
  });
});
