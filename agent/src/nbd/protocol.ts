/**
 * NBD, fixed newstyle: the numbers of the protocol (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md)
 * and what Tidemark makes of it. Everything is big-endian.
 *
 * Handshake, server to client:  NBDMAGIC u64 | IHAVEOPT u64 | handshake flags u16;   client: client flags u32
 * Option, client to server:     IHAVEOPT u64 | option u32 | length u32 | data
 * Option reply:                 REPLYMAGIC u64 | option u32 | type u32 | length u32 | data
 *
 * | request   | offset | bytes | field                                                              |
 * |-----------|--------|-------|--------------------------------------------------------------------|
 * |           | 0      | 4     | 0x25609513                                                         |
 * |           | 4      | 2     | command flags                                                      |
 * |           | 6      | 2     | command                                                            |
 * |           | 8      | 8     | cookie, sent back as it came                                       |
 * |           | 16     | 8     | offset                                                             |
 * |           | 24     | 4     | length; a WRITE is followed by that many bytes                     |
 *
 * | reply     | offset | bytes | field                                                              |
 * |-----------|--------|-------|--------------------------------------------------------------------|
 * | simple    | 0      | 4     | 0x67446698                                                         |
 * |           | 4      | 4     | error, 0 for success                                               |
 * |           | 8      | 8     | cookie; a successful READ is followed by its bytes                 |
 * | chunk     | 0      | 4     | 0x668e33ef (once structured replies are agreed: READ, BLOCK_STATUS) |
 * |           | 4      | 2     | flags: bit 0 last chunk of this reply                              |
 * |           | 6      | 2     | type                                                               |
 * |           | 8      | 8     | cookie                                                             |
 * |           | 16     | 4     | length of what follows                                             |
 *
 * Chunk OFFSET_DATA: offset u64 | bytes. OFFSET_HOLE: offset u64 | length u32. ERROR: error u32 | text length u16 | text.
 * BLOCK_STATUS: context u32 | (length u32 | status u32) ….
 *
 * A request is valid if and only if its magic is right, its command is one that was announced, its flags belong to the
 * command, offset + length lies in the export, both are multiples of the minimum block and a payload is at most
 * `payloadBytesMax`. A wrong magic or an oversized payload ends the connection, anything else is answered by an error.
 * Replies come in any order. A reply to FLUSH says: every write answered before that FLUSH was sent is durable.
 */

export const nbdMagic = 0x4e42444d41474943n;
export const optionMagic = 0x49484156454f5054n;
export const optionReplyMagic = 0x3e889045565a9n;
export const requestMagic = 0x25609513;
export const simpleReplyMagic = 0x67446698;
export const chunkMagic = 0x668e33ef;

export const requestBytes = 28;
export const simpleReplyBytes = 16;
export const chunkHeaderBytes = 20;
/** Before the bytes of a READ in an OFFSET_DATA chunk. */
export const dataChunkBytes = 28;
export const optionHeaderBytes = 16;
export const optionReplyHeaderBytes = 20;

/** Largest READ or WRITE: what the protocol lets a client use without asking. */
export const payloadBytesMax = 32 * 1024 * 1024;
/** Longest export name, query or text: the protocol's own bound. */
export const stringBytesMax = 4096;
/** Longest data of an option: a name, a list of queries. */
export const optionBytesMax = 16 * 1024;

export const handshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

export const optionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsupported: 0x80000001,
  errPolicy: 0x80000002,
  errInvalid: 0x80000003,
  errTlsRequired: 0x80000005,
  errUnknown: 0x80000006,
  errShutdown: 0x80000007,
  errTooBig: 0x80000009,
} as const;

export const info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Transmission flags, the properties of an export. */
export const exportFlag = {
  hasFlags: 1,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
} as const;

export const command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** `dontFragment` (READ) costs nothing: a READ is always answered by one chunk. */
export const commandFlag = { fua: 1, noHole: 2, dontFragment: 4, reqOne: 8 } as const;

export const chunkType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;
export const chunkDone = 1;

/** The one metadata context that is served, and the id it is given. */
export const allocationContext = 'base:allocation';
export const allocationContextId = 1;
export const allocationFlag = { hole: 1, zero: 2 } as const;
