/** The thread that compresses blocks, so that neither zstd's work nor its garbage is on the thread that acknowledges. */
import { parentPort } from 'node:worker_threads';
import { constants, zstdCompressSync } from 'node:zlib';
import { stepBack } from '../platform/priority.js';
import type { CompressAnswer, CompressRequest } from './zstd-thread.js';

stepBack();
const port = parentPort!;

port.on('message', ({ number, raw, level }: CompressRequest) => {
  const compressed = zstdCompressSync(raw, {
    params: { [constants.ZSTD_c_compressionLevel]: level },
    // One piece of output: zstd adds less than this to what cannot be compressed.
    chunkSize: raw.length + 1024,
  });
  const exact = new Uint8Array(compressed);
  const answer: CompressAnswer = { number, compressed: exact };
  port.postMessage(answer, [exact.buffer]);
});
