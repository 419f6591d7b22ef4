/**
 * Delta sync at the target: compares the source's chunk digests with the newest state here.
 *
 * Any state between the start of the sync and now may serve: a captured write that is in one side's chunk and not in
 * the other's only causes a needless resend, and a chunk that agrees stays equal, because the writes that follow reach
 * both.
 */
import type { JournalCut } from '../journal/types.js';
import { chunkDigest, decodeDigests, encodeNeed, type DigestsMessage } from '../stream/digests.js';
import { encodeFrame } from '../stream/frame.js';
import { digestBytes, digestChunkBytes, FrameType } from '../stream/messages.js';

/** What the comparison reads. */
export interface DeltaSource {
  /** A cut of all that was received, once it is durable. */
  newestCut(): Promise<JournalCut>;
  diskSizeBytes(disk: number): number | undefined;
  /** Digests of replica chunks, 16 bytes each. */
  replicaDigests(disk: number, firstChunk: number, count: number): Promise<Uint8Array>;
  /** The disk's bytes at the cut. */
  readAt(cut: JournalCut, disk: number, target: Uint8Array, offsetBytes: number): Promise<void>;
}

const idleTicksMax = 5;

export class DeltaSync {
  private cut: JournalCut | undefined;
  private closed = false;
  private idleTicks = 0;
  private answering = false;

  constructor(
    private readonly source: DeltaSource,
    private readonly send: (pieces: readonly Uint8Array[]) => void,
  ) {}

  /** Called once a second: a cut that nothing asked of for five of them is given back (it keeps segments alive). */
  tick(): void {
    if (++this.idleTicks >= idleTicksMax) this.release();
  }

  /** Answers one `digests` payload with a `need` frame. */
  async answer(payload: Uint8Array): Promise<void> {
    const asked = decodeDigests(payload);
    const count = asked.digests.length / digestBytes;
    const sizeBytes = this.source.diskSizeBytes(asked.disk) ?? 0;
    this.idleTicks = 0;
    if (this.closed) return;
    if (this.cut === undefined) {
      const cut = await this.source.newestCut();
      if (this.closed) {
        cut.release();
        return;
      }
      this.cut = cut;
    }
    this.answering = true;
    const bits = await this.compare(this.cut, asked, count, sizeBytes).finally(() => {
      this.answering = false;
      if (this.closed) this.release();
    });
    const { requestId, disk, firstChunk } = asked;
    this.send(encodeFrame(FrameType.need, encodeNeed({ requestId, disk, firstChunk, count, bits })));
  }

  private async compare(cut: JournalCut, asked: DigestsMessage, count: number, sizeBytes: number): Promise<Uint8Array> {
    const { disk, firstChunk, digests } = asked;
    const bits = new Uint8Array(Math.ceil(count / 8));
    // Digests do not wait for the blocks before them: what a growth that is on its way adds is needed.
    const known = Math.max(0, Math.min(count, Math.ceil(sizeBytes / digestChunkBytes) - firstChunk));
    for (let index = known; index < count; index++)
      bits[index >> 3] = (bits[index >> 3] as number) | (1 << (index & 7));
    if (known === 0) return bits;
    const stored = await this.source.replicaDigests(disk, firstChunk, known);
    for (let index = 0; index < known; index++) {
      const offsetBytes = (firstChunk + index) * digestChunkBytes;
      const lengthBytes = Math.min(digestChunkBytes, sizeBytes - offsetBytes);
      const pieces = await cut.lookup(disk, offsetBytes, lengthBytes);
      let ours = stored.subarray(index * digestBytes, (index + 1) * digestBytes);
      if (pieces.some((piece) => piece.source !== 'base')) {
        const chunk = new Uint8Array(lengthBytes);
        await this.source.readAt(cut, disk, chunk, offsetBytes);
        ours = chunkDigest(chunk);
      }
      const theirs = digests.subarray(index * digestBytes, (index + 1) * digestBytes);
      if (Buffer.compare(theirs, ours) !== 0) bits[index >> 3] = (bits[index >> 3] as number) | (1 << (index & 7));
    }
    return bits;
  }

  close(): void {
    this.closed = true;
    this.release();
  }

  /** Not under an answer that reads it: that one gives it back at its end, or a later tick does. */
  private release(): void {
    if (this.answering) return;
    this.cut?.release();
    this.cut = undefined;
  }
}
