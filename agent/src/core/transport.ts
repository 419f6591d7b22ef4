/** Network as a parameter: production is TLS 1.3 over TCP, the simulation a model that delays, splits and cuts. */
export interface PeerIdentity {
  /** Site/agent name taken from the verified certificate; never from anything the peer sent later. */
  readonly name: string;
  /** Where it came from, for logs. */
  readonly address: string;
}

/** An ordered, reliable byte stream that may be cut at any byte. Handlers are set once, before data can arrive. */
export interface Connection {
  readonly peer: PeerIdentity;
  /** Bytes accepted by `send` and not yet handed to the operating system. */
  readonly queuedBytes: number;
  /** Queues the pieces in order. Never throws; after a close it is a no-op. The pieces must not change afterwards. */
  send(pieces: readonly Uint8Array[]): void;
  /** The chunk is the handler's until it returns; its memory is gone afterwards. */
  onData(handler: (chunk: Uint8Array) => void): void;
  /** Called when `queuedBytes` fell below the low-water mark. */
  onDrain(handler: () => void): void;
  /** Called exactly once, with the reason, whoever closed. */
  onClose(handler: (reason: string) => void): void;
  /** Stops reading (back-pressure) / reads again. */
  pause(): void;
  resume(): void;
  close(reason: string): void;
}

export interface Dialer {
  /** Throws TidemarkError `peer-unreachable` or `peer-refused`. `address` is host:port. */
  dial(address: string, signal: AbortSignal): Promise<Connection>;
}

export interface Listener {
  /** host:port that peers dial; the port is the real one when 0 was asked for. */
  readonly address: string;
  /** Called once for each connection whose handshake succeeded. Set once, before a peer can be accepted. */
  onConnection(handler: (connection: Connection) => void): void;
  /** Stops accepting and closes what it accepted. Idempotent. */
  close(): Promise<void>;
}
