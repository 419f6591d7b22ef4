/** What the NBD tests share: an export in memory, a server on a socket of its own, a raw dialogue with it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExportBackend, Extent } from '../../agent/src/nbd/backend.js';
import { encodeRequest } from '../../agent/src/nbd/codec.js';
import type { NbdLimits } from '../../agent/src/nbd/limits.js';
import type { Payload } from '../../agent/src/nbd/payload.js';
import { optionMagic, optionReplyMagic } from '../../agent/src/nbd/protocol.js';
import { NbdServer } from '../../agent/src/nbd/server.js';
import { SlabPool } from '../../agent/src/nbd/slab.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';

/** Bytes in memory. `hold`: requests wait until `release` is called; `fail`: what the next calls throw. */
export class MemoryBackend implements ExportBackend {
  readonly bytes: Buffer;
  readonly preferredBlockBytes = 4096;
  hold: Promise<void> | undefined;
  fail: Error | undefined;
  clients = 0;
  calls = 0;

  constructor(
    readonly sizeBytes: number,
    readonly minimumBlockBytes = 1,
    readonly readOnly = false,
  ) {
    this.bytes = Buffer.alloc(sizeBytes);
  }

  read(target: Uint8Array, offsetBytes: number): Promise<void> | undefined {
    return this.#run(() => void this.bytes.copy(target, 0, offsetBytes, offsetBytes + target.length));
  }

  write(offsetBytes: number, payload: Payload): Promise<void> | undefined {
    return this.#run(() => this.bytes.set(payload.bytes, offsetBytes));
  }

  zero(offsetBytes: number, lengthBytes: number): Promise<void> | undefined {
    return this.#run(() => void this.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes));
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> | undefined {
    return this.zero(offsetBytes, lengthBytes);
  }

  flush(): Promise<void> | undefined {
    return this.#run(() => undefined);
  }

  async extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]> {
    const found: Extent[] = [];
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; at += 65_536 - (at % 65_536)) {
      const length = Math.min(65_536 - (at % 65_536), end - at);
      const zero = this.bytes.subarray(at, at + length).every((byte) => byte === 0);
      const last = found.at(-1);
      if (last?.zero === zero) found[found.length - 1] = { ...last, lengthBytes: last.lengthBytes + length };
      else if (found.length === countMax) break;
      else found.push({ lengthBytes: length, hole: zero, zero });
    }
    return found;
  }

  connected(): void {
    this.clients++;
  }

  disconnected(): void {
    this.clients--;
  }

  #run(work: () => void): Promise<void> | undefined {
    this.calls++;
    if (this.fail !== undefined) throw this.fail;
    if (this.hold === undefined) {
      work();
      return undefined;
    }
    return this.hold.then(work);
  }
}

export interface TestServer extends AsyncDisposable {
  readonly server: NbdServer;
  readonly slabs: SlabPool;
  readonly directory: string;
  readonly path: string;
  readonly faults: unknown[];
  uri(name: string): string;
}

export async function startServer(
  limits: Partial<NbdLimits> = {},
  slabs = new SlabPool({ limitBytes: 256 << 20 }),
): Promise<TestServer> {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-'));
  const path = join(directory, 's.sock');
  const faults: unknown[] = [];
  const server = new NbdServer({ slabs, clock: nodeClock, limits, onFault: (error) => faults.push(error) });
  await server.listenUnix(path);
  return {
    ...{ server, slabs, directory, path, faults },
    uri: (name) => `nbd+unix:///${encodeURIComponent(name)}?socket=${path}`,
    async [Symbol.asyncDispose]() {
      await server.close({ graceMs: 200 });
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A client that says what it is told to, and reads exactly what it asks for. */
export class RawClient implements Disposable {
  #input = Buffer.alloc(0);
  #wake: () => void = () => undefined;
  #ended = false;

  private constructor(readonly socket: Socket) {
    socket.on('data', (chunk: Buffer) => {
      this.#input = Buffer.concat([this.#input, chunk]);
      this.#wake();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#ended = true;
      this.#wake();
    });
  }

  /** Connects and passes the greeting. */
  static async open(path: string, flags = 3): Promise<RawClient> {
    const client = new RawClient(connect({ path }));
    await client.take(18);
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(flags);
    client.socket.write(answer);
    return client;
  }

  async take(lengthBytes: number): Promise<Buffer> {
    while (this.#input.length < lengthBytes) {
      if (this.#ended) throw new Error(`closed after ${this.#input.length} of ${lengthBytes} bytes`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const taken = this.#input.subarray(0, lengthBytes);
    this.#input = this.#input.subarray(lengthBytes);
    return taken;
  }

  /** Resolves when the server closed; returns what came before that was not taken. */
  async end(): Promise<Buffer> {
    while (!this.#ended) await new Promise<void>((resolve) => (this.#wake = resolve));
    return this.#input;
  }

  ask(option: number, data: Buffer = Buffer.alloc(0)): void {
    const header = Buffer.alloc(16);
    header.writeBigUInt64BE(optionMagic, 0);
    header.writeUInt32BE(option, 8);
    header.writeUInt32BE(data.length, 12);
    this.socket.write(Buffer.concat([header, data]));
  }

  async answer(): Promise<{ option: number; type: number; data: Buffer }> {
    const header = await this.take(20);
    if (header.readBigUInt64BE(0) !== optionReplyMagic) throw new Error('not an option reply');
    const data = await this.take(header.readUInt32BE(16));
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data };
  }

  /** Asks and returns the type of the first reply. */
  async type(option: number, data?: Buffer): Promise<number> {
    this.ask(option, data);
    return (await this.answer()).type;
  }

  request(command: number, offsetBytes: number, lengthBytes: number, flags = 0, payload = Buffer.alloc(0)): void {
    const header = { flags, command, cookieHigh: 7, cookieLow: command, offsetBytes, lengthBytes };
    this.socket.write(Buffer.concat([encodeRequest(header), payload]));
  }

  /** The error number of a simple reply. */
  async simple(): Promise<number> {
    return (await this.take(16)).readUInt32BE(4);
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

export function sized(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

/** Data of INFO and GO. */
export function goData(name: string, infos: readonly number[] = []): Buffer {
  return Buffer.concat([sized(name), Buffer.from([0, infos.length, ...infos.flatMap((info) => [0, info])])]);
}

/** Data of LIST and SET_META_CONTEXT. */
export function contextData(name: string, queries: readonly string[]): Buffer {
  return Buffer.concat([sized(name), Buffer.from([0, 0, 0, queries.length]), ...queries.map(sized)]);
}
