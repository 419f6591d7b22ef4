/**
 * The bytes of one NBD write, in place in the slab that the socket was read into. Slabs are counted: a payload that
 * was retained keeps its slab from being used again until released.
 */
export interface Payload {
  /** The payload's bytes; valid until the backend's call is complete, or until `release` when retained. */
  readonly bytes: Uint8Array;
  retain(): void;
  release(): void;
}
