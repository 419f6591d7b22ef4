/**
 * The server's side of the handshake: bytes of the client in, replies out, until it has chosen an export.
 *
 * States: client flags → options → (startTls: options again inside of TLS | start: transmission | end). With `tls`
 * 'required' every option but ABORT and STARTTLS is refused; EXPORT_NAME, which has no way to be refused, ends the
 * connection. Bytes that follow STARTTLS unasked were not protected: they end it too. The caller bounds the time.
 */
import { putOffset } from './codec.js';
import type { ExportDirectory, ServedExport } from './export.js';
import type { NbdLimits } from './limits.js';
import * as p from './protocol.js';
import { parseExportRequest, parseMetaRequest, validName } from './validate-option.js';

export type NegotiationStep =
  | { readonly kind: 'more' }
  | { readonly kind: 'end' }
  | { readonly kind: 'startTls' }
  | { readonly kind: 'start'; readonly target: ServedExport; readonly structured: boolean; readonly status: boolean };

const more: NegotiationStep = { kind: 'more' };
const end: NegotiationStep = { kind: 'end' };

/** `none`: STARTTLS is unsupported; `required`: nothing else goes; `active`: inside of TLS. */
export type TlsState = 'none' | 'required' | 'active';

export class Negotiation {
  #input: Buffer = Buffer.alloc(0);
  #flagsSeen: boolean;
  #noZeroes: boolean;
  #structured = false;
  /** The export name that base:allocation was chosen for. */
  #statusFor: string | undefined;
  #options = 0;

  constructor(
    private readonly directory: ExportDirectory,
    private readonly limits: NbdLimits,
    private readonly tls: TlsState,
    private readonly send: (bytes: Buffer) => void,
    /** What was agreed before TLS: inside of it there is no second greeting and nothing else is kept. */
    plain?: Negotiation,
  ) {
    this.#flagsSeen = plain !== undefined;
    this.#noZeroes = plain !== undefined && plain.#noZeroes;
  }

  greet(): void {
    const bytes = Buffer.allocUnsafe(18);
    bytes.writeBigUInt64BE(p.nbdMagic, 0);
    bytes.writeBigUInt64BE(p.optionMagic, 8);
    bytes.writeUInt16BE(p.handshakeFlag.fixedNewstyle | p.handshakeFlag.noZeroes, 16);
    this.send(bytes);
  }

  /** Bytes that came after what the handshake used: the first of the transmission. */
  get rest(): Buffer {
    return this.#input;
  }

  receive(chunk: Buffer): NegotiationStep {
    this.#input = this.#input.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#input, chunk]);
    if (!this.#flagsSeen) {
      if (this.#input.length < 4) return more;
      const flags = this.#input.readUInt32BE(0);
      if ((flags & ~(p.handshakeFlag.fixedNewstyle | p.handshakeFlag.noZeroes)) !== 0) return end;
      this.#noZeroes = (flags & p.handshakeFlag.noZeroes) !== 0;
      this.#flagsSeen = true;
      this.#input = this.#input.subarray(4);
    }
    for (;;) {
      if (this.#input.length < p.optionHeaderBytes) return more;
      if (this.#input.readBigUInt64BE(0) !== p.optionMagic) return end;
      const kind = this.#input.readUInt32BE(8);
      const lengthBytes = this.#input.readUInt32BE(12);
      if (lengthBytes > p.optionBytesMax) {
        this.#refuse(kind, p.optionReply.errTooBig, 'option too long');
        return end;
      }
      if (this.#input.length < p.optionHeaderBytes + lengthBytes) return more;
      if (++this.#options > this.limits.optionsMax) return end;
      const data = this.#input.subarray(p.optionHeaderBytes, p.optionHeaderBytes + lengthBytes);
      this.#input = this.#input.subarray(p.optionHeaderBytes + lengthBytes);
      const step = this.#handle(kind, data);
      if (step.kind !== 'more') return step;
    }
  }

  #handle(kind: number, data: Buffer): NegotiationStep {
    if (this.tls === 'required' && kind !== p.option.startTls && kind !== p.option.abort) {
      if (kind === p.option.exportName) return end;
      return this.#refuse(kind, p.optionReply.errTlsRequired, 'this server wants STARTTLS first');
    }
    switch (kind) {
      case p.option.exportName:
        return this.#exportName(data);
      case p.option.abort:
        this.#reply(kind, p.optionReply.ack);
        return end;
      case p.option.list:
        return this.#list(kind, data);
      case p.option.startTls:
        return this.#startTls(kind, data);
      case p.option.info:
      case p.option.go:
        return this.#infoOrGo(kind, data);
      case p.option.structuredReply:
        if (data.length > 0) return this.#refuse(kind, p.optionReply.errInvalid, 'this option has no data');
        this.#structured = true;
        return this.#reply(kind, p.optionReply.ack);
      case p.option.listMetaContext:
      case p.option.setMetaContext:
        return this.#metaContext(kind, data);
      default:
        return this.#refuse(kind, p.optionReply.errUnsupported, 'unknown option');
    }
  }

  #exportName(data: Buffer): NegotiationStep {
    const name = validName(data);
    const target = name === undefined ? undefined : this.directory.find(name);
    if (target === undefined || refusal(target) !== undefined) return end;
    const bytes = Buffer.alloc(this.#noZeroes ? 10 : 134);
    putOffset(bytes, 0, target.backend.sizeBytes);
    bytes.writeUInt16BE(this.#transmissionFlags(target), 8);
    this.send(bytes);
    return this.#start(target);
  }

  #list(kind: number, data: Buffer): NegotiationStep {
    if (data.length > 0) return this.#refuse(kind, p.optionReply.errInvalid, 'this option has no data');
    for (const served of this.directory.names()) {
      const name = Buffer.from(served.name);
      const length = Buffer.allocUnsafe(4);
      length.writeUInt32BE(name.length);
      this.#reply(kind, p.optionReply.server, Buffer.concat([length, name, Buffer.from(served.description)]));
    }
    return this.#reply(kind, p.optionReply.ack);
  }

  #startTls(kind: number, data: Buffer): NegotiationStep {
    if (this.tls === 'active') return this.#refuse(kind, p.optionReply.errInvalid, 'TLS is active already');
    if (this.tls === 'none') return this.#refuse(kind, p.optionReply.errPolicy, 'no TLS on this socket');
    if (data.length > 0) return this.#refuse(kind, p.optionReply.errInvalid, 'this option has no data');
    if (this.#input.length > 0) return end;
    this.#reply(kind, p.optionReply.ack);
    return { kind: 'startTls' };
  }

  #infoOrGo(kind: number, data: Buffer): NegotiationStep {
    const request = parseExportRequest(data);
    if (request === undefined) return this.#refuse(kind, p.optionReply.errInvalid, 'malformed request');
    const target = this.directory.find(request.name);
    if (target === undefined) return this.#refuse(kind, p.optionReply.errUnknown, 'no export of this name');
    const refused = kind === p.option.go ? refusal(target) : undefined;
    if (refused !== undefined) return this.#refuse(kind, refused.type, refused.text);
    this.#sendInfos(kind, target, request.infos);
    this.#reply(kind, p.optionReply.ack);
    return kind === p.option.go ? this.#start(target) : more;
  }

  #sendInfos(kind: number, target: ServedExport, asked: ReadonlySet<number>): void {
    const main = Buffer.allocUnsafe(12);
    main.writeUInt16BE(p.info.export, 0);
    putOffset(main, 2, target.backend.sizeBytes);
    main.writeUInt16BE(this.#transmissionFlags(target), 10);
    this.#reply(kind, p.optionReply.info, main);
    if (asked.has(p.info.name)) this.#reply(kind, p.optionReply.info, infoText(p.info.name, target.name));
    if (asked.has(p.info.description) && target.description !== '') {
      this.#reply(kind, p.optionReply.info, infoText(p.info.description, target.description));
    }
    const block = Buffer.allocUnsafe(14);
    block.writeUInt16BE(p.info.blockSize, 0);
    block.writeUInt32BE(target.backend.minimumBlockBytes, 2);
    block.writeUInt32BE(target.backend.preferredBlockBytes, 6);
    block.writeUInt32BE(p.payloadBytesMax, 10);
    this.#reply(kind, p.optionReply.info, block);
  }

  #metaContext(kind: number, data: Buffer): NegotiationStep {
    if (kind === p.option.setMetaContext) this.#statusFor = undefined;
    if (!this.#structured) return this.#refuse(kind, p.optionReply.errInvalid, 'STRUCTURED_REPLY comes first');
    const request = parseMetaRequest(data);
    if (request === undefined) return this.#refuse(kind, p.optionReply.errInvalid, 'malformed request');
    if (this.directory.find(request.name) === undefined) {
      return this.#refuse(kind, p.optionReply.errUnknown, 'no export of this name');
    }
    const list = kind === p.option.listMetaContext;
    const wanted =
      request.queries.includes(p.allocationContext) ||
      (list && (request.queries.length === 0 || request.queries.includes('base:')));
    if (wanted) {
      const id = Buffer.alloc(4);
      if (!list) {
        id.writeUInt32BE(p.allocationContextId);
        this.#statusFor = request.name;
      }
      this.#reply(kind, p.optionReply.metaContext, Buffer.concat([id, Buffer.from(p.allocationContext)]));
    }
    return this.#reply(kind, p.optionReply.ack);
  }

  #start(target: ServedExport): NegotiationStep {
    return { kind: 'start', target, structured: this.#structured, status: this.#statusFor === target.name };
  }

  #transmissionFlags({ backend }: ServedExport): number {
    const f = p.exportFlag;
    const flags = f.hasFlags | f.sendFlush | f.sendFua | f.canMultiConn | (this.#structured ? f.sendDf : 0);
    return flags | (backend.readOnly ? f.readOnly : f.sendTrim | f.sendWriteZeroes);
  }

  #refuse(kind: number, type: number, text: string): NegotiationStep {
    return this.#reply(kind, type, Buffer.from(text));
  }

  #reply(kind: number, type: number, data: Buffer = Buffer.alloc(0)): NegotiationStep {
    const header = Buffer.allocUnsafe(p.optionReplyHeaderBytes);
    header.writeBigUInt64BE(p.optionReplyMagic, 0);
    header.writeUInt32BE(kind, 8);
    header.writeUInt32BE(type, 12);
    header.writeUInt32BE(data.length, 16);
    this.send(Buffer.concat([header, data]));
    return more;
  }
}

/** Why an export takes no further client. */
function refusal(target: ServedExport): { type: number; text: string } | undefined {
  if (target.closing) return { type: p.optionReply.errShutdown, text: 'this export is being removed' };
  if (target.connections < target.connectionsMax) return undefined;
  return { type: p.optionReply.errPolicy, text: 'too many connections to this export' };
}

function infoText(kind: number, text: string): Buffer {
  const head = Buffer.allocUnsafe(2);
  head.writeUInt16BE(kind);
  return Buffer.concat([head, Buffer.from(text)]);
}
