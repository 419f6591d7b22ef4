/** Every bound of the NBD server, by name. */
export interface NbdLimits {
  /** Connections of one export. */
  readonly exportConnectionsMax: number;
  /** Connections of the server, negotiating ones included. */
  readonly connectionsMax: number;
  /** From accept to transmission, TLS included. */
  readonly handshakeMs: number;
  /** Options one client may send before transmission. */
  readonly optionsMax: number;
  /** Requests of one connection that the backend works on; more are not read. */
  readonly inFlightMax: number;
  /** Payload bytes of these requests (one request may exceed it alone). */
  readonly inFlightBytesMax: number;
  /** Reply bytes that a client has not taken; over it no request of its is read. */
  readonly queuedReplyBytesMax: number;
  /** Extents in one answer to BLOCK_STATUS. */
  readonly extentsMax: number;
}

export const nbdLimitsDefault: NbdLimits = {
  exportConnectionsMax: 16,
  connectionsMax: 256,
  handshakeMs: 10_000,
  optionsMax: 128,
  inFlightMax: 128,
  inFlightBytesMax: 64 * 1024 * 1024,
  queuedReplyBytesMax: 8 * 1024 * 1024,
  extentsMax: 4096,
};
