/** Every option and every error path of the server, spoken byte by byte. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { NbdError } from '../../agent/src/nbd/backend.js';
import { TidemarkError } from '../../agent/src/core/errors.js';
import { chunkType, command, commandFlag, info, option, optionReply } from '../../agent/src/nbd/protocol.js';
import { contextData, goData, MemoryBackend, RawClient, sized, startServer, type TestServer } from './nbd-support.js';

const size = 1 << 20;
let host: TestServer;
const disk = new MemoryBackend(size, 512);
const readOnly = new MemoryBackend(size, 1, true);

beforeAll(async () => {
  host = await startServer({ optionsMax: 20, exportConnectionsMax: 2 });
  host.server.addExport('disk', disk, { description: 'a disk' });
  host.server.addExport('ro', readOnly);
});
afterAll(async () => host[Symbol.asyncDispose]());

async function transmission(name = 'disk', structured = false): Promise<RawClient> {
  const client = await RawClient.open(host.path);
  if (structured) {
    expect(await client.type(option.structuredReply)).toBe(optionReply.ack);
    client.ask(option.setMetaContext, contextData(name, ['base:allocation']));
    expect((await client.answer()).type).toBe(optionReply.metaContext);
    expect((await client.answer()).type).toBe(optionReply.ack);
  }
  client.ask(option.go, goData(name));
  while ((await client.answer()).type !== optionReply.ack);
  return client;
}

describe('handshake', () => {
  test('EXPORT_NAME with and without zeroes', async () => {
    for (const [flags, bytes] of [
      [3, 10],
      [1, 134],
    ] as const) {
      using client = await RawClient.open(host.path, flags);
      client.ask(option.exportName, Buffer.from('disk'));
      const answer = await client.take(bytes);
      expect(answer.readBigUInt64BE(0)).toBe(BigInt(size));
      expect(answer.readUInt16BE(8)).toBe(0b1_0110_1101);
      client.request(command.flush, 0, 0);
      expect(await client.simple()).toBe(0);
    }
  });

  test('EXPORT_NAME of an unknown export and unknown client flags end the connection', async () => {
    using unknown = await RawClient.open(host.path);
    unknown.ask(option.exportName, Buffer.from('nothing'));
    expect(await unknown.end()).toHaveLength(0);
    using flags = await RawClient.open(host.path, 0x80);
    expect(await flags.end()).toHaveLength(0);
  });

  test('LIST names exports with their descriptions', async () => {
    using client = await RawClient.open(host.path);
    client.ask(option.list);
    const first = await client.answer();
    expect(first).toEqual({
      option: option.list,
      type: optionReply.server,
      data: Buffer.concat([sized('disk'), Buffer.from('a disk')]),
    });
    expect((await client.answer()).type).toBe(optionReply.server);
    expect((await client.answer()).type).toBe(optionReply.ack);
    expect(await client.type(option.list, Buffer.from('x'))).toBe(optionReply.errInvalid);
  });

  test('INFO tells export, block size and what was asked, and leaves the handshake open', async () => {
    using client = await RawClient.open(host.path);
    client.ask(option.info, goData('disk', [info.name, info.description, info.blockSize]));
    const kinds: number[] = [];
    for (let answer = await client.answer(); answer.type !== optionReply.ack; answer = await client.answer()) {
      expect(answer.type).toBe(optionReply.info);
      kinds.push(answer.data.readUInt16BE(0));
      if (kinds.at(-1) === info.blockSize) {
        expect([2, 6, 10].map((at) => answer.data.readUInt32BE(at))).toEqual([512, 4096, 32 << 20]);
      }
    }
    expect(kinds).toEqual([info.export, info.name, info.description, info.blockSize]);
    expect(await client.type(option.abort)).toBe(optionReply.ack);
    expect(await client.end()).toHaveLength(0);
  });

  test('malformed, unknown and misplaced options get their own error', async () => {
    using client = await RawClient.open(host.path);
    expect(await client.type(option.go, goData('nothing'))).toBe(optionReply.errUnknown);
    for (const data of [Buffer.alloc(0), Buffer.from([0, 0, 0, 9, 1]), goData('disk').subarray(0, 9)]) {
      expect(await client.type(option.go, data)).toBe(optionReply.errInvalid);
    }
    expect(await client.type(option.go, Buffer.concat([goData('disk'), Buffer.alloc(1)]))).toBe(optionReply.errInvalid);
    expect(await client.type(option.info, goData('\0'))).toBe(optionReply.errInvalid);
    expect(await client.type(option.startTls)).toBe(optionReply.errPolicy);
    expect(await client.type(99)).toBe(optionReply.errUnsupported);
    expect(await client.type(option.setMetaContext, contextData('disk', []))).toBe(optionReply.errInvalid);
    expect(await client.type(option.structuredReply, Buffer.alloc(1))).toBe(optionReply.errInvalid);
    expect(await client.type(option.structuredReply)).toBe(optionReply.ack);
    expect(await client.type(option.setMetaContext, contextData('nothing', []))).toBe(optionReply.errUnknown);
    expect(await client.type(option.setMetaContext, contextData('disk', ['other:x']))).toBe(optionReply.ack);
    expect(await client.type(option.listMetaContext, Buffer.from([0, 0, 0, 0, 0, 0, 0, 1]))).toBe(
      optionReply.errInvalid,
    );
    for (const queries of [[], ['base:'], ['base:allocation']]) {
      expect(await client.type(option.listMetaContext, contextData('disk', queries))).toBe(optionReply.metaContext);
      expect((await client.answer()).type).toBe(optionReply.ack);
    }
  });

  test('too long an option, too many options, a wrong magic: refused or dropped', async () => {
    using long = await RawClient.open(host.path);
    const header = Buffer.from('49484156454f5054000000070fffffff', 'hex');
    long.socket.write(header);
    expect((await long.answer()).type).toBe(optionReply.errTooBig);
    await long.end();
    using many = await RawClient.open(host.path);
    for (let index = 0; index < 20; index++) expect(await many.type(99)).toBe(optionReply.errUnsupported);
    many.ask(99);
    expect(await many.end()).toHaveLength(0);
    using magic = await RawClient.open(host.path);
    magic.socket.write(Buffer.alloc(16));
    expect(await magic.end()).toHaveLength(0);
  });

  test('a client that says nothing is cut, and a full export refuses', async () => {
    await using slow = await startServer({ handshakeMs: 100, connectionsMax: 2 });
    using silent = await RawClient.open(slow.path);
    expect(await silent.end()).toHaveLength(0);
    using one = await transmission();
    using two = await transmission();
    using three = await RawClient.open(host.path);
    expect(await three.type(option.go, goData('disk'))).toBe(optionReply.errPolicy);
    one.request(command.disconnect, 0, 0);
    two.request(command.disconnect, 0, 0);
    await Promise.all([one.end(), two.end()]);
  });
});

describe('transmission', () => {
  test('each request that is not valid gets its error and the connection goes on', async () => {
    using client = await transmission();
    const cases: [string, number, number, number, number, number, number?][] = [
      ['read past the end', command.read, size, 512, 0, 22],
      ['write past the end', command.write, size - 512, 1024, 0, 28, 1024],
      ['zero past the end', command.writeZeroes, size, 512, 0, 28],
      ['trim past the end', command.trim, size, 512, 0, 22],
      ['misaligned offset', command.read, 1, 512, 0, 22],
      ['misaligned length', command.write, 0, 100, 0, 22, 100],
      ['no length', command.read, 0, 0, 0, 22],
      ['empty write', command.write, 0, 0, 0, 22],
      ['too long a read', command.read, 0, (32 << 20) + 512, 0, 75],
      ['an unknown command', 5, 0, 512, 0, 22],
      ['another one', 999, 0, 512, 0, 22],
      ['a flag of another command', command.read, 0, 512, commandFlag.reqOne, 22],
      ['FAST_ZERO', command.writeZeroes, 0, 512, 16, 22],
      ['block status without context', command.blockStatus, 0, 512, 0, 22],
      ['flush with a range', command.flush, 0, 512, 0, 22],
      ['an offset that is no number', command.trim, Number.MAX_SAFE_INTEGER, 512, 0, 22],
    ];
    const calls = disk.calls;
    for (const [what, kind, offset, length, flags, errno, payload = 0] of cases) {
      client.request(kind, offset, length, flags, Buffer.alloc(payload));
      expect([what, await client.simple()]).toEqual([what, errno]);
    }
    expect(disk.calls).toBe(calls);
    client.request(command.flush, 0, 0, commandFlag.fua);
    expect(await client.simple()).toBe(0);
    client.request(command.disconnect, 0, 0);
    await client.end();
  });

  test('a read-only export takes no write', async () => {
    using client = await transmission('ro');
    client.request(command.write, 0, 4, 0, Buffer.from('evil'));
    expect(await client.simple()).toBe(1);
    client.request(command.trim, 0, 4);
    expect(await client.simple()).toBe(1);
    client.request(command.read, 0, 4);
    expect((await client.take(20)).subarray(16)).toEqual(Buffer.alloc(4));
  });

  test('structured: data, error and block status', async () => {
    disk.bytes.fill(0).fill(7, 65_536, 131_072);
    using client = await transmission('disk', true);
    client.request(command.read, 65_536, 512);
    const data = await client.take(28 + 512);
    expect(data.readUInt16BE(4)).toBe(1);
    expect(data.readUInt16BE(6)).toBe(chunkType.offsetData);
    expect(data.readBigUInt64BE(20)).toBe(65_536n);
    expect(data[28]).toBe(7);
    client.request(command.read, size, 512);
    const error = await client.take(20);
    expect(error.readUInt16BE(6)).toBe(chunkType.error);
    expect((await client.take(error.readUInt32BE(16))).readUInt32BE(0)).toBe(22);
    client.request(command.blockStatus, 0, size);
    const status = await client.take(20 + 4 + 3 * 8);
    expect(status.readUInt16BE(6)).toBe(chunkType.blockStatus);
    expect([24, 28, 32, 36].map((at) => status.readUInt32BE(at))).toEqual([65_536, 3, 65_536, 0]);
    client.request(command.blockStatus, 0, size, commandFlag.reqOne);
    expect((await client.take(32)).readUInt32BE(24)).toBe(65_536);
  });

  test("a backend's failure becomes the error of its kind; a fault of ours is EIO and reported", async () => {
    using client = await transmission();
    for (const [error, errno] of [
      [new NbdError('ENOMEM', ''), 12],
      [new TidemarkError('scratch-full', ''), 28],
      [new TypeError('bug'), 5],
    ] as const) {
      disk.fail = error;
      client.request(command.write, 0, 512, 0, Buffer.alloc(512));
      expect(await client.simple()).toBe(errno);
      client.request(command.flush, 0, 0);
      expect(await client.simple()).toBe(errno);
    }
    disk.fail = undefined;
    expect(host.faults.length).toBeGreaterThan(0);
    expect(host.slabs.status().heldBytes).toBe(0);
  });

  test('a wrong magic and an oversized payload end the connection', async () => {
    using magic = await transmission();
    magic.socket.write(Buffer.alloc(28));
    expect(await magic.end()).toHaveLength(0);
    using large = await transmission();
    large.request(command.write, 0, (32 << 20) + 512);
    expect(await large.end()).toHaveLength(0);
  });

  test('DISC waits for what is in flight', async () => {
    let release: () => void = () => undefined;
    disk.hold = new Promise((resolve) => (release = resolve));
    using client = await transmission();
    client.request(command.write, 0, 512, 0, Buffer.alloc(512, 1));
    client.request(command.disconnect, 0, 0);
    client.request(command.write, 0, 512, 0, Buffer.alloc(512, 2));
    setTimeout(release, 50);
    expect(await client.simple()).toBe(0);
    expect(await client.end()).toHaveLength(0);
    disk.hold = undefined;
    expect(disk.bytes[0]).toBe(1);
  });
});
