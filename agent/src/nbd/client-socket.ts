/** How the client gets its byte stream: connect, handshake, TLS in between. */
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { ClientHandshake, type ExportInfo } from './client-handshake.js';
import type { NbdAddress } from './uri.js';

/** PEM texts; `cert` and `key` when the server wants to know who we are. */
export interface NbdClientTls {
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}

/** Where bytes go after the handshake. Set once by the client. */
export interface ByteSink {
  directTarget(): Buffer | undefined;
  receivedDirect(lengthBytes: number): void;
  receive(chunk: Buffer): void;
}

export interface Opened {
  readonly socket: Socket;
  readonly info: ExportInfo;
  /** Starts the flow of bytes to `sink`, with those that came already. */
  attach(sink: ByteSink): void;
}

const sharedInput = Buffer.allocUnsafeSlow(256 * 1024);

/** Throws `peer-unreachable`, `peer-refused`, `disk-unknown`, `protocol-error` or `timed-out`. */
export function openSocket(
  address: NbdAddress,
  clock: Clock,
  timeoutMs: number,
  { tls, metaContext }: { readonly tls?: NbdClientTls | undefined; readonly metaContext?: string | undefined } = {},
): Promise<Opened> {
  if (address.tls && tls === undefined) {
    return Promise.reject(new TidemarkError('config-invalid', 'An nbds URI needs an authority to check the server.'));
  }
  return new Promise((resolve, reject) => {
    let sink: ByteSink | undefined;
    let socket: Socket;
    const timer = clock.after(timeoutMs, () => fail(new TidemarkError('timed-out', 'The NBD server does not answer.')));
    const fail = (error: unknown): void => {
      timer.cancel();
      socket.destroy();
      if (error instanceof TidemarkError) reject(error);
      else reject(new TidemarkError('peer-unreachable', `NBD: ${(error as Error).message}`, { cause: error }));
    };
    const send = (bytes: Buffer): void => void socket.write(bytes);
    const handshake = new ClientHandshake(address.exportName, address.tls, send, metaContext);
    const receive = (chunk: Buffer): void => {
      if (sink !== undefined) {
        sink.receive(chunk);
        return;
      }
      try {
        const step = handshake.receive(Buffer.from(chunk));
        if (step === 'more') return;
        if (step === 'startTls') secure();
        else finish(step);
      } catch (error) {
        fail(error);
      }
    };
    const onClosed = (): void => fail(new Error('the connection was closed during the handshake'));
    const secure = (): void => {
      const plain = socket;
      plain.removeAllListeners();
      const servername = 'host' in address.at ? { host: address.at.host } : {};
      const secured = connectTls({ socket: plain, ...servername, ...tls, minVersion: 'TLSv1.3' }, () =>
        handshake.secured(),
      );
      socket = secured;
      secured.on('data', receive);
      watch();
    };
    const watch = (): void => {
      socket.on('error', fail);
      socket.on('close', onClosed);
    };
    const finish = (info: ExportInfo): void => {
      timer.cancel();
      socket.off('error', fail);
      socket.off('close', onClosed);
      // Errors are followed by 'close', which the client acts on.
      socket.on('error', () => undefined);
      const rest = handshake.rest;
      const attach = (to: ByteSink): void => {
        sink = to;
        if (rest.length > 0) to.receive(rest);
      };
      resolve({ socket, info, attach });
    };
    // The socket of a TLS connection is read by the TLS layer, so it may not have memory of ours.
    const onread = {
      buffer: (): Buffer => sink?.directTarget() ?? sharedInput,
      callback: (lengthBytes: number, buffer: Uint8Array): boolean => {
        if (buffer === sharedInput) receive(sharedInput.subarray(0, lengthBytes));
        else sink?.receivedDirect(lengthBytes);
        return true;
      },
    };
    const where = 'socketPath' in address.at ? { path: address.at.socketPath } : { ...address.at, noDelay: true };
    socket = connect(address.tls ? where : { ...where, onread });
    if (address.tls) socket.on('data', receive);
    watch();
  });
}
