/** An encoded block in pieces: header, table, body. */
export type EncodedBlock = readonly Uint8Array[];

export function bytesOfBlock(block: EncodedBlock): number {
  let bytes = 0;
  for (const piece of block) bytes += piece.length;
  return bytes;
}
