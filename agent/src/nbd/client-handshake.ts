/**
 * The client's side of the handshake: bytes of the server in, options out, until transmission.
 *
 * greeting → [STARTTLS, then all again inside of TLS without a greeting] → STRUCTURED_REPLY → SET_META_CONTEXT → GO.
 * A server that knows neither structured replies nor the metadata context is used without them.
 */
import { TidemarkError } from '../core/errors.js';
import { readOffset } from './codec.js';
import * as p from './protocol.js';

/** What was agreed with the server. */
export interface ExportInfo {
  readonly sizeBytes: number;
  /** Transmission flags: `exportFlag`. */
  readonly flags: number;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  /** Largest READ or WRITE. */
  readonly payloadBytesMax: number;
  /** The id of the metadata context (base:allocation unless another was asked for) when BLOCK_STATUS may be asked. */
  readonly contextId: number | undefined;
}

type Step = 'greeting' | 'tls' | 'structured' | 'context' | 'go';
const optionOf = {
  tls: p.option.startTls,
  structured: p.option.structuredReply,
  context: p.option.setMetaContext,
  go: p.option.go,
} as const;

const replyBytesMax = 64 * 1024;

export class ClientHandshake {
  #input: Buffer = Buffer.alloc(0);
  #step: Step = 'greeting';
  #contextId: number | undefined;
  #main: Buffer | undefined;
  #block: Buffer | undefined;

  constructor(
    private readonly exportName: string,
    private readonly tls: boolean,
    private readonly send: (bytes: Buffer) => void,
    private readonly metaContext: string = p.allocationContext,
  ) {}

  /** Bytes that came after the handshake. */
  get rest(): Buffer {
    return this.#input;
  }

  /** TLS is up: goes on with the options inside of it. */
  secured(): void {
    this.#ask('structured', Buffer.alloc(0));
  }

  /** Throws `protocol-error`, `peer-refused` or `disk-unknown` (no such export). */
  receive(chunk: Buffer): ExportInfo | 'more' | 'startTls' {
    this.#input = Buffer.concat([this.#input, chunk]);
    if (this.#step === 'greeting' && !this.#greeting()) return 'more';
    for (;;) {
      if (this.#input.length < p.optionReplyHeaderBytes) return 'more';
      if (this.#input.readBigUInt64BE(0) !== p.optionReplyMagic) throw malformed('a wrong magic in an option reply');
      const asked = this.#input.readUInt32BE(8);
      const type = this.#input.readUInt32BE(12);
      const end = p.optionReplyHeaderBytes + this.#input.readUInt32BE(16);
      if (end > replyBytesMax) throw malformed('an option reply that is too long');
      if (this.#input.length < end) return 'more';
      const data = this.#input.subarray(p.optionReplyHeaderBytes, end);
      this.#input = this.#input.subarray(end);
      if (this.#step === 'greeting' || asked !== optionOf[this.#step]) throw malformed('a reply to no option of ours');
      const done = this.#reply(type, data);
      if (done !== undefined) return done;
    }
  }

  #greeting(): boolean {
    if (this.#input.length < 18) return false;
    if (this.#input.readBigUInt64BE(0) !== p.nbdMagic || this.#input.readBigUInt64BE(8) !== p.optionMagic) {
      throw malformed('no newstyle greeting');
    }
    const flags = this.#input.readUInt16BE(16);
    if ((flags & p.handshakeFlag.fixedNewstyle) === 0) throw malformed('no fixed newstyle');
    this.#input = this.#input.subarray(18);
    const answer = Buffer.allocUnsafe(4);
    answer.writeUInt32BE(flags & (p.handshakeFlag.fixedNewstyle | p.handshakeFlag.noZeroes));
    this.send(answer);
    this.#ask(this.tls ? 'tls' : 'structured', Buffer.alloc(0));
    return true;
  }

  #reply(type: number, data: Buffer): ExportInfo | 'startTls' | undefined {
    const refused = type >= 0x8000_0000;
    switch (this.#step) {
      case 'tls':
        if (type !== p.optionReply.ack) throw new TidemarkError('peer-refused', `TLS was refused: ${textOf(data)}`);
        if (this.#input.length > 0) throw malformed('bytes before TLS was up');
        return 'startTls';
      case 'structured':
        if (type === p.optionReply.ack) this.#ask('context', contextRequest(this.exportName, this.metaContext));
        else this.#ask('go', goRequest(this.exportName));
        return undefined;
      case 'context':
        if (type === p.optionReply.metaContext && data.toString('utf8', 4) === this.metaContext) {
          this.#contextId = data.readUInt32BE(0);
        } else if (refused || type === p.optionReply.ack) {
          this.#ask('go', goRequest(this.exportName));
        }
        return undefined;
      default:
        return this.#goReply(type, data);
    }
  }

  #goReply(type: number, data: Buffer): ExportInfo | undefined {
    if (type === p.optionReply.info && data.length >= 2) {
      const kind = data.readUInt16BE(0);
      if (kind === p.info.export && data.length === 12) this.#main = Buffer.from(data);
      if (kind === p.info.blockSize && data.length === 14) this.#block = Buffer.from(data);
      return undefined;
    }
    if (type === p.optionReply.errUnknown) {
      throw new TidemarkError('disk-unknown', `The NBD server has no export "${this.exportName}": ${textOf(data)}`);
    }
    if (type !== p.optionReply.ack) {
      throw new TidemarkError('peer-refused', `The NBD server refused "${this.exportName}": ${textOf(data)}`);
    }
    const sizeBytes = this.#main === undefined ? Infinity : readOffset(this.#main, 2);
    if (this.#main === undefined || sizeBytes === Infinity) throw malformed('no size of the export');
    const [minimum, preferred, maximum] = [2, 6, 10].map((at) => this.#block?.readUInt32BE(at));
    return {
      sizeBytes,
      flags: this.#main.readUInt16BE(10),
      minimumBlockBytes: minimum ?? 1,
      preferredBlockBytes: preferred ?? 4096,
      payloadBytesMax: Math.min(maximum ?? p.payloadBytesMax, p.payloadBytesMax),
      contextId: this.#contextId,
    };
  }

  #ask(step: keyof typeof optionOf, data: Buffer): void {
    this.#step = step;
    const header = Buffer.allocUnsafe(p.optionHeaderBytes);
    header.writeBigUInt64BE(p.optionMagic, 0);
    header.writeUInt32BE(optionOf[step], 8);
    header.writeUInt32BE(data.length, 12);
    this.send(Buffer.concat([header, data]));
  }
}

function withLength(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.allocUnsafe(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

function contextRequest(exportName: string, context: string): Buffer {
  return Buffer.concat([withLength(exportName), Buffer.from([0, 0, 0, 1]), withLength(context)]);
}

function goRequest(exportName: string): Buffer {
  return Buffer.concat([withLength(exportName), Buffer.from([0, 1, 0, p.info.blockSize])]);
}

function textOf(data: Buffer): string {
  return data.toString('utf8').slice(0, 200);
}

function malformed(what: string): TidemarkError {
  return new TidemarkError('protocol-error', `The NBD server sent ${what}.`);
}
