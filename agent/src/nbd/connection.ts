/** One client of the server from accept to close: handshake, TLS, transmission, and the bounds on their time. */
import type { Socket } from 'node:net';
import { TLSSocket, type SecureContext } from 'node:tls';
import type { Clock, Timer } from '../core/clock.js';
import type { ExportDirectory, ServedExport } from './export.js';
import type { NbdLimits } from './limits.js';
import { Negotiation, type NegotiationStep, type TlsState } from './negotiation.js';
import type { SlabPool } from './slab.js';
import { Transmission } from './transmission.js';

export interface ServerTls {
  readonly context: SecureContext;
  /** Clients must show a certificate of the authority. */
  readonly mutual: boolean;
}

export interface ConnectionHost {
  readonly directory: ExportDirectory;
  readonly slabs: SlabPool;
  readonly limits: NbdLimits;
  readonly clock: Clock;
  readonly onFault: (error: unknown) => void;
  /** A client of an export with a `guardGroup` begins its transmission. */
  readonly onGuarded?: ((connection: GuardedConnection) => void) | undefined;
}

/** A client that the guard must be able to let go. */
export interface GuardedConnection {
  readonly group: string;
  readonly exportName: string;
  /** The socket that the kernel knows, also under TLS. */
  readonly plain: Socket;
  /** Emits `close` when the connection ends. */
  readonly socket: Socket;
}

/** Memory that every plain socket is read into; emptied before the next read, so one is enough for all. */
const sharedInput = Buffer.allocUnsafeSlow(256 * 1024);

export class ServerConnection {
  /** Resolves when the socket is closed and the backend has no request of this client. */
  readonly gone: Promise<void>;
  readonly #host: ConnectionHost;
  readonly #tls: ServerTls | undefined;
  #plain: Socket | undefined;
  #socket: Socket | undefined;
  #negotiation: Negotiation | undefined;
  #transmission: Transmission | undefined;
  #target: ServedExport | undefined;
  #deadline: Timer | undefined;
  #resolveGone: () => void = () => undefined;

  constructor(host: ConnectionHost, tls: ServerTls | undefined) {
    this.#host = host;
    this.#tls = tls;
    this.gone = new Promise((resolve) => (this.#resolveGone = resolve));
  }

  get target(): ServedExport | undefined {
    return this.#target;
  }

  /** For net.Socket's `onread`: the socket reads where the protocol wants its next bytes. */
  readonly onread = {
    buffer: (): Buffer => this.#transmission?.directTarget() ?? sharedInput,
    callback: (lengthBytes: number, buffer: Uint8Array): boolean => {
      if (buffer === sharedInput) this.#receive(sharedInput.subarray(0, lengthBytes));
      else this.#transmission?.receivedDirect(lengthBytes);
      return true;
    },
  };

  /** Starts the handshake. `emitsData`: the socket was not made with `onread`. */
  start(socket: Socket, emitsData: boolean): void {
    this.#deadline = this.#host.clock.after(this.#host.limits.handshakeMs, () => this.destroy());
    this.#plain = socket;
    this.#adopt(socket, emitsData);
    this.#negotiate(socket, this.#tls === undefined ? 'none' : 'required');
  }

  /** Ends when requests in flight are answered, or is cut after `graceMs`. */
  stop(graceMs: number): Promise<void> {
    if (this.#transmission === undefined) {
      this.destroy();
      return this.gone;
    }
    const timer = this.#host.clock.after(graceMs, () => this.destroy());
    this.#transmission.stop();
    return this.gone.finally(() => timer.cancel());
  }

  /** Cuts the connection; `gone` still waits for the backend. */
  destroy(): void {
    this.#socket?.destroy();
  }

  #adopt(socket: Socket, emitsData: boolean): void {
    this.#socket = socket;
    if (emitsData) socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    // Why a client was lost is of no use to anyone: its requests are settled in any case.
    socket.on('error', () => undefined);
    socket.on('end', () => this.#transmission?.stop());
    socket.on('close', () => this.#closed(socket));
    socket.resume();
  }

  #negotiate(socket: Socket, state: TlsState, plain?: Negotiation): void {
    const { directory, limits } = this.#host;
    this.#negotiation = new Negotiation(directory, limits, state, (bytes) => void socket.write(bytes), plain);
    if (plain === undefined) this.#negotiation.greet();
  }

  #receive(chunk: Buffer): void {
    if (this.#transmission !== undefined) {
      this.#transmission.receive(chunk);
      return;
    }
    const step = this.#negotiation?.receive(chunk);
    if (step === undefined || step.kind === 'more') return;
    if (step.kind === 'start') this.#startTransmission(step);
    else if (step.kind === 'startTls') this.#startTls();
    else this.#endNegotiation();
  }

  /** The last reply still goes out; a client that does not close is cut by the deadline of the handshake. */
  #endNegotiation(): void {
    this.#negotiation = undefined;
    this.#socket?.end();
  }

  #startTls(): void {
    const plain = this.#socket;
    const tls = this.#tls;
    const negotiated = this.#negotiation;
    if (plain === undefined || tls === undefined) return;
    plain.removeAllListeners();
    plain.on('error', () => undefined);
    this.#negotiation = undefined;
    const { context, mutual } = tls;
    const secure = new TLSSocket(plain, {
      isServer: true,
      secureContext: context,
      requestCert: mutual,
      rejectUnauthorized: mutual,
    });
    secure.on('secure', () => {
      // A TLSSocket of a server that is not tls.Server leaves the verdict on the certificate to its user.
      const { ssl } = secure as unknown as { ssl: { verifyError(): Error | null } };
      if (mutual && (secure.getPeerX509Certificate() === undefined || ssl.verifyError() !== null)) secure.destroy();
      else this.#negotiate(secure, 'active', negotiated);
    });
    this.#adopt(secure, true);
  }

  #startTransmission(step: NegotiationStep & { kind: 'start' }): void {
    const socket = this.#socket;
    const rest = this.#negotiation?.rest;
    if (socket === undefined || rest === undefined) return;
    this.#deadline?.cancel();
    this.#negotiation = undefined;
    const { target, structured, status } = step;
    const { slabs, limits, clock, onFault } = this.#host;
    this.#target = target;
    target.connections++;
    target.backend.connected?.();
    const onGone = (): void => this.#leave(target);
    this.#transmission = new Transmission(socket, {
      ...{ target, structured, status, slabs, limits, clock, onFault, onGone },
    });
    const group = target.backend.guardGroup;
    if (group !== undefined)
      this.#host.onGuarded?.({ group, exportName: target.name, plain: this.#plain ?? socket, socket });
    if (rest.length > 0) this.#transmission.receive(rest);
  }

  #leave(target: ServedExport): void {
    target.connections--;
    target.backend.disconnected?.();
    this.#resolveGone();
  }

  #closed(socket: Socket): void {
    if (socket !== this.#socket) return;
    this.#deadline?.cancel();
    if (this.#transmission === undefined) this.#resolveGone();
    else this.#transmission.closed();
  }
}
