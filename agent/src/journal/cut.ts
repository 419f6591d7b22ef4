/** A cut: the journal's runs up to a vector, newest first, and reading through them. */
import { invariant } from '../core/invariant.js';
import type { BodyReader, BodySource } from './body-reader.js';
import { extentBytes, readDisk, readExtent, readOffset, type Extent } from './extent.js';
import { Cursor, Overlay } from './overlay.js';
import type { Vector } from './position.js';
import { firstExtentAfter, RunDamaged, type Run } from './run.js';
import type { JournalCut, Piece } from './types.js';

/** A run of the cut; `repair` gives what to read when a page of it is damaged. */
export interface CutLayer {
  readonly run: Run;
  readonly repair?: () => Promise<CutLayer[]>;
}

export interface CutInput {
  readonly vector: Vector;
  /** Newest first. */
  readonly layers: CutLayer[];
  readonly sourceOf: (segmentId: number) => BodySource;
  readonly bodies: BodyReader;
  readonly onRelease: () => void;
}

interface Gap {
  readonly from: number;
  readonly to: number;
}

export class Cut implements JournalCut {
  readonly vector: Vector;
  #layers: CutLayer[];
  #released = false;

  constructor(private readonly input: CutInput) {
    this.vector = input.vector;
    this.#layers = input.layers;
  }

  async lookup(disk: number, offsetBytes: number, lengthBytes: number): Promise<Piece[]> {
    invariant(!this.#released, 'lookup in a released cut');
    for (;;) {
      try {
        return await this.#lookup(disk, offsetBytes, offsetBytes + lengthBytes);
      } catch (error) {
        await this.#repair(error);
      }
    }
  }

  async read(piece: Piece, skipBytes: number, target: Uint8Array): Promise<void> {
    const extent = piece.locator as Extent;
    invariant(!this.#released && piece.source === 'data', 'read in a released cut, or of a piece without data');
    invariant(skipBytes + target.length <= piece.lengthBytes, 'read beyond the piece');
    const bodyOffset = extent.bodyOffset + (piece.offsetBytes - extent.offsetBytes) + skipBytes;
    await this.input.bodies.read(this.input.sourceOf(extent.segmentId), extent.entryPosition, bodyOffset, target);
  }

  async *pieces(disk: number): AsyncIterable<Piece> {
    let fromBytes = 0;
    let overlay = this.#overlay(disk, fromBytes);
    for (;;) {
      invariant(!this.#released, 'pieces of a released cut');
      const next = overlay.next();
      if (next instanceof Cursor) {
        try {
          await next.load();
        } catch (error) {
          await this.#repair(error);
          overlay = this.#overlay(disk, fromBytes);
        }
        continue;
      }
      if (next === undefined || next.disk !== disk) return;
      fromBytes = next.offsetBytes + next.lengthBytes;
      yield toPiece(next, next.offsetBytes, fromBytes);
    }
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#layers = [];
    this.input.onRelease();
  }

  #overlay(disk: number, fromBytes: number): Overlay {
    const cursors = this.#layers.map((layer) => new Cursor(layer.run, disk, fromBytes));
    return new Overlay(cursors, disk, fromBytes);
  }

  async #lookup(disk: number, from: number, to: number): Promise<Piece[]> {
    const found: Piece[] = [];
    let gaps: Gap[] = from < to ? [{ from, to }] : [];
    for (const { run } of this.#layers) {
      if (gaps.length === 0) break;
      if (run.pageCount === 0) continue;
      const left: Gap[] = [];
      for (const gap of gaps) {
        let at = gap.from;
        for (let index = run.pageOf(disk, gap.from); index < run.pageCount && at < gap.to; index++) {
          const loaded = run.page(index);
          const page = loaded instanceof Promise ? await loaded : loaded;
          let entry = firstExtentAfter(page, disk, at) * extentBytes;
          let past = false;
          for (; entry < page.byteLength && at < gap.to; entry += extentBytes) {
            if (readDisk(page, entry) !== disk || readOffset(page, entry) >= gap.to) {
              past = true;
              break;
            }
            const extent = readExtent(page, entry);
            const start = Math.max(at, extent.offsetBytes);
            const end = Math.min(gap.to, extent.offsetBytes + extent.lengthBytes);
            if (start > at) left.push({ from: at, to: start });
            found.push(toPiece(extent, start, end));
            at = end;
          }
          if (past) break;
        }
        if (at < gap.to) left.push({ from: at, to: gap.to });
      }
      gaps = left;
    }
    for (const gap of gaps) found.push({ offsetBytes: gap.from, lengthBytes: gap.to - gap.from, source: 'base' });
    return found.length > 1 ? found.sort((a, b) => a.offsetBytes - b.offsetBytes) : found;
  }

  async #repair(error: unknown): Promise<void> {
    if (!(error instanceof RunDamaged)) throw error;
    const at = this.#layers.findIndex((layer) => layer.run === error.run);
    // Another reader of this cut repaired it meanwhile.
    if (at < 0) return;
    const repair = this.#layers[at]?.repair;
    if (repair === undefined) throw error;
    const layers = await repair();
    const now = this.#layers.findIndex((layer) => layer.run === error.run);
    if (now >= 0) this.#layers.splice(now, 1, ...layers);
  }
}

function toPiece(extent: Extent, from: number, to: number): Piece {
  if (extent.zero) return { offsetBytes: from, lengthBytes: to - from, source: 'zero' };
  return { offsetBytes: from, lengthBytes: to - from, source: 'data', locator: extent };
}
