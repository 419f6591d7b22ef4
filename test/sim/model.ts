/**
 * The oracle: a plain model of what guests wrote and were told. Every write fills its 512-byte sectors with its own
 * number, so that any sector that is read later tells which write it came from. A counter orders all that happens.
 */
export const sectorBytes = 512;

export interface ModelWrite {
  /** Stamp in every sector; 0 in `zero` writes, whose sectors are zeros. */
  readonly id: number;
  readonly zero: boolean;
  /** When the guest issued it, and when it was acknowledged (Infinity: not yet, or never). */
  readonly issued: number;
  acknowledged: number;
}

/** Before anything: all zeros, acknowledged at the beginning of time. */
const origin: ModelWrite = { id: 0, zero: true, issued: 0, acknowledged: 0 };

interface InFlight {
  readonly write: ModelWrite;
  readonly first: number;
  readonly count: number;
}

export class DiskModel {
  /** Writes of each sector in the order they took effect. */
  private readonly history: ModelWrite[][];
  /** By the stamp: many may stay for ever unacknowledged, after kills. */
  private readonly inFlight = new Map<number, Set<InFlight>>();

  constructor(
    readonly name: string,
    readonly sizeBytes: number,
    private readonly counter: { now: number },
  ) {
    this.history = Array.from({ length: sizeBytes / sectorBytes }, () => [origin]);
  }

  get sectorCount(): number {
    return this.history.length;
  }

  /** A guest issued a write; `settle` says how it ended. */
  issue(id: number, zero: boolean, offsetBytes: number, lengthBytes: number): { acknowledge(): void; dropped(): void } {
    const write: ModelWrite = { id: zero ? 0 : id, zero, issued: ++this.counter.now, acknowledged: Infinity };
    const entry = { write, first: offsetBytes / sectorBytes, count: lengthBytes / sectorBytes };
    const sameStamp = this.inFlight.get(write.id) ?? new Set<InFlight>();
    this.inFlight.set(write.id, sameStamp.add(entry));
    const settle = (): boolean => {
      const known = sameStamp.delete(entry);
      if (sameStamp.size === 0 && this.inFlight.get(write.id) === sameStamp) this.inFlight.delete(write.id);
      return known;
    };
    return {
      acknowledge: () => {
        if (!settle()) return;
        write.acknowledged = ++this.counter.now;
        for (let sector = entry.first; sector < entry.first + entry.count; sector++) this.history[sector]?.push(write);
      },
      dropped: () => void settle(),
    };
  }

  /** Newest acknowledged content, for a guest that reads its disk back. */
  newest(sector: number): ModelWrite {
    return this.history[sector]?.at(-1) ?? origin;
  }

  /** Greatest issue time among the writes that the bytes show. Zeros tell nothing. */
  newestIssueSeen(bytes: Uint8Array): number {
    let newest = 0;
    const words = wordsOf(bytes);
    for (let sector = 0; sector < this.history.length; sector++) {
      const id = words[(sector * sectorBytes) / 4] as number;
      if (id === 0) continue;
      const seen = this.candidates(sector, id).at(-1);
      if (seen !== undefined) newest = Math.max(newest, seen.issued);
    }
    return newest;
  }

  /**
   * Checks a disk image of one moment: every write acknowledged at `marked` or before is in it (or a later one over it),
   * none issued after it is, and every sector is whole. Returns what is wrong, undefined when nothing is.
   */
  check(bytes: Uint8Array, acknowledgedBy: number, issuedBy: number): string | undefined {
    if (bytes.length !== this.sizeBytes) return `${this.name}: ${bytes.length} bytes instead of ${this.sizeBytes}`;
    const words = wordsOf(bytes);
    const wordCount = sectorBytes / 4;
    for (let sector = 0; sector < this.history.length; sector++) {
      const at = sector * wordCount;
      const id = words[at] as number;
      for (let word = 1; word < wordCount; word++) {
        if (words[at + word] !== id) return `${this.name} sector ${sector}: torn, ${id} and ${words[at + word]}`;
      }
      const list = this.history[sector] as ModelWrite[];
      let needed = list.length - 1;
      while (needed > 0 && (list[needed] as ModelWrite).acknowledged > acknowledgedBy) needed--;
      const fits = this.candidates(sector, id).some(
        (write) => write.issued <= issuedBy && (write.acknowledged === Infinity || list.indexOf(write) >= needed),
      );
      if (fits) continue;
      const wanted = list[needed] as ModelWrite;
      const seen = this.candidates(sector, id).at(-1);
      const what =
        seen === undefined
          ? 'a write that was never made there'
          : `issued ${seen.issued}, acknowledged ${seen.acknowledged}`;
      return (
        `${this.name} sector ${sector}: shows ${id} (${what}); the mark at ${acknowledgedBy} needs ${wanted.id} ` +
        `(issued ${wanted.issued}, acknowledged ${wanted.acknowledged}) or later, none issued after ${issuedBy}`
      );
    }
    return undefined;
  }

  private candidates(sector: number, id: number): ModelWrite[] {
    const list = (this.history[sector] as ModelWrite[]).filter((write) => write.id === id);
    for (const { write, first, count } of this.inFlight.get(id) ?? []) {
      if (sector >= first && sector < first + count) list.push(write);
    }
    return list;
  }
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  if (bytes.byteOffset % 4 === 0) return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  return new Uint32Array(bytes.slice().buffer);
}

/** Sectors full of the write's number. */
export function stampedBytes(id: number, lengthBytes: number): Uint8Array {
  return new Uint8Array(new Uint32Array(lengthBytes / 4).fill(id).buffer);
}

/** All disks of a group, and the moments of its marks. */
export class GroupModel {
  readonly counter = { now: 0 };
  readonly disks = new Map<string, DiskModel>();
  /** Mark time by checkpoint id and source agent. */
  private readonly marks = new Map<string, Map<string, number>>();
  private nextId = 1;

  addDisk(name: string, sizeBytes: number): DiskModel {
    const disk = new DiskModel(name, sizeBytes, this.counter);
    this.disks.set(name, disk);
    return disk;
  }

  takeId(): number {
    return this.nextId++;
  }

  /** A source agent placed its mark now. */
  marked(checkpoint: string, agent: string): void {
    const times = this.marks.get(checkpoint) ?? new Map<string, number>();
    times.set(agent, ++this.counter.now);
    this.marks.set(checkpoint, times);
  }

  markOf(checkpoint: string, agent: string): number | undefined {
    return this.marks.get(checkpoint)?.get(agent);
  }

  /**
   * Checks the images of a checkpoint: each disk against its agent's mark, and all against each other: a write that was
   * acknowledged before another one, which is seen, was issued, must be seen too.
   */
  check(checkpoint: string, images: ReadonlyMap<string, { bytes: Uint8Array; agent: string }>): string | undefined {
    let newestIssue = 0;
    for (const [name, { bytes }] of images) newestIssue = Math.max(newestIssue, this.disk(name).newestIssueSeen(bytes));
    for (const [name, { bytes, agent }] of images) {
      const marked = this.markOf(checkpoint, agent);
      if (marked === undefined) return `checkpoint ${checkpoint} is listed, but ${agent} never marked it`;
      const wrong =
        this.disk(name).check(bytes, marked, marked) ?? this.disk(name).check(bytes, newestIssue - 1, Infinity);
      if (wrong !== undefined) return `checkpoint ${checkpoint}: ${wrong}`;
    }
    return undefined;
  }

  disk(name: string): DiskModel {
    const disk = this.disks.get(name);
    if (disk === undefined) throw new Error(`the model has no disk ${name}`);
    return disk;
  }
}
