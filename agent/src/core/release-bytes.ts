/**
 * Gives the memory of bytes back at once instead of leaving it to the garbage collector, which would have to walk the
 * whole heap for every 64 MiB that pass by. The array has length 0 afterwards.
 *
 * Only for bytes that nobody else has and that no native call (a write, a compression) still reads. A view onto a larger
 * buffer is left alone.
 */
export function releaseBytes(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (!(buffer instanceof ArrayBuffer) || bytes.length !== buffer.byteLength || bytes.length === 0) return;
  buffer.transfer(0);
}
