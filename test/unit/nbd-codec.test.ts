import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import * as codec from '../../agent/src/nbd/codec.js';
import { errnoName, errnoOf, wireErrorOf } from '../../agent/src/nbd/errno.js';
import { NbdError } from '../../agent/src/nbd/backend.js';
import { chunkHeaderBytes } from '../../agent/src/nbd/protocol.js';
import { parseNbdUri, unixUri } from '../../agent/src/nbd/uri.js';
import { TidemarkError } from '../../agent/src/core/errors.js';

const u16 = fc.nat(0xffff);
const u32 = fc.nat(0xffffffff);
const offset = fc.nat(Number.MAX_SAFE_INTEGER);
const request = fc.record({
  flags: u16,
  command: u16,
  cookieHigh: u32,
  cookieLow: u32,
  offsetBytes: offset,
  lengthBytes: u32,
});

describe('NBD codecs', () => {
  test('a request comes back as it was', () => {
    fc.assert(
      fc.property(request, (value) => {
        expect(codec.readRequest(codec.encodeRequest(value), 0)).toEqual(value);
      }),
    );
  });

  test('a flipped bit in the magic of a request is refused, elsewhere it changes the request', () => {
    fc.assert(
      fc.property(request, fc.nat(28 * 8 - 1), (value, bit) => {
        const bytes = codec.encodeRequest(value);
        bytes[bit >> 3]! ^= 1 << (bit & 7);
        const read = codec.readRequest(bytes, 0);
        if (bit < 32) expect(read).toBeUndefined();
        else expect(read).not.toEqual(value);
      }),
    );
  });

  test('an offset beyond safe integers is infinite, never rounded', () => {
    expect(codec.readOffset(Buffer.from('0020000000000000', 'hex'), 0)).toBe(Infinity);
    expect(codec.readOffset(Buffer.from('001fffffffffffff', 'hex'), 0)).toBe(Number.MAX_SAFE_INTEGER);
  });

  test('replies and chunks come back as they were, and wait when cut', () => {
    fc.assert(
      fc.property(u32, u32, u32, u16, fc.boolean(), (cookieHigh, cookieLow, value, type, done) => {
        const simple = codec.encodeSimpleReply({ errno: value, cookieHigh, cookieLow });
        expect(codec.readReply(simple)).toEqual({ kind: 'simple', reply: { errno: value, cookieHigh, cookieLow } });
        const chunk = { done, type, cookieHigh, cookieLow, lengthBytes: value };
        const bytes = Buffer.alloc(chunkHeaderBytes);
        codec.putChunkHeader(bytes, 0, chunk);
        expect(codec.readReply(bytes)).toEqual({ kind: 'chunk', chunk });
        for (let length = 0; length < 16; length++) {
          expect(codec.readReply(simple.subarray(0, length))).toBe('more');
          expect(codec.readReply(bytes.subarray(0, length))).toBe('more');
        }
      }),
    );
  });

  test('a block status comes back as it was', () => {
    const extent = fc.record({
      lengthBytes: fc.integer({ min: 1, max: 0xffffffff }),
      hole: fc.boolean(),
      zero: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(extent, { minLength: 1 }), (extents) => {
        const bytes = codec.encodeStatusChunk(extents, 1, 2);
        expect(codec.readStatus(bytes.subarray(chunkHeaderBytes))).toEqual({ contextId: 1, extents });
      }),
    );
    expect(codec.readStatus(Buffer.alloc(12))).toBeUndefined();
    expect(codec.readStatus(Buffer.alloc(13))).toBeUndefined();
  });

  test('errors have the numbers of the protocol', () => {
    expect(errnoOf('ENOSPC')).toBe(28);
    expect(errnoName(108)).toBe('ESHUTDOWN');
    expect(errnoName(9999)).toBe('EINVAL');
    expect(wireErrorOf(new NbdError('EPERM', ''))).toBe('EPERM');
    expect(wireErrorOf(new TidemarkError('scratch-full', ''))).toBe('ENOSPC');
    expect(wireErrorOf(new TypeError())).toBeUndefined();
  });

  test('URIs', () => {
    expect(parseNbdUri('nbd+unix:///a%2Fb?socket=/run/x.sock')).toEqual({
      exportName: 'a/b',
      tls: false,
      at: { socketPath: '/run/x.sock' },
    });
    expect(parseNbdUri('nbds://[::1]/d')).toEqual({ exportName: 'd', tls: true, at: { host: '::1', port: 10809 } });
    expect(parseNbdUri(unixUri('/run/a b', 'g/d')).at).toEqual({ socketPath: '/run/a b' });
    for (const bad of ['http://x/y', 'nbd+unix:///x', 'nbd', 'nbd:///x']) {
      expect(() => parseNbdUri(bad)).toThrow(TidemarkError);
    }
  });
});
