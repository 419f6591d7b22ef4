/**
 * Follows small files beside a VM: firmware variables, media. They are looked at by name, so a file that was replaced or is
 * missing for a moment is no special case; and by the thread pool, since a watch of the kernel's (inotify) looks its path
 * up in the thread that acknowledges writes, which a file system that never answers would stop.
 */
import { stat } from 'node:fs/promises';
import { sleep, type Clock } from '../core/clock.js';
import { isTidemarkError } from '../core/errors.js';

/** From look to look: a change is read at most that long (and the time of a read) after it was made. */
const lookMs = 200;
/** Changes that are read as soon as they are seen; a quiet time gives them back, one each `refillMs`. */
const burstMax = 64;
const refillMs = 30_000;
/** Reads that fell into a change, before one is taken as it is. */
const tornReadsMax = 5;

export interface FileWatchOptions<Content> {
  readonly files: readonly string[];
  readonly clock: Clock;
  readonly read: () => Promise<Content>;
  /** What was read when the files had changed; also when they are first looked at. */
  readonly tell: (content: Content) => void;
}

/** At most `burstMax` reads in a row, and one each 30 s while changes go on without end. Ends with {@link FileWatch.stop}. */
export class FileWatch<Content> {
  private readonly stopping = new AbortController();
  private tokens = burstMax;
  private refilledAtMs: number;

  constructor(private readonly o: FileWatchOptions<Content>) {
    this.refilledAtMs = o.clock.monotonicMs();
    void this.run();
  }

  stop(): void {
    this.stopping.abort(new Error('stopped'));
  }

  private async run(): Promise<void> {
    const { files, clock, tell } = this.o;
    const { signal } = this.stopping;
    let known: string | undefined;
    // Two writes within one tick of the file system's clock look alike: what was read is read once more a look later.
    let isSettled = false;
    for (;;) {
      const seen = await signatureOf(files);
      if (signal.aborted) return;
      if ((seen !== known || !isSettled) && this.take()) {
        const content = await this.readWhole(seen);
        if (signal.aborted) return;
        isSettled = content !== undefined && seen === known;
        known = content === undefined ? undefined : seen;
        if (content !== undefined) tell(content);
      }
      try {
        await sleep(clock, lookMs, signal);
      } catch {
        return;
      }
    }
  }

  /** Not what lies between two states. Undefined: it cannot be read now. */
  private async readWhole(before: string): Promise<Content | undefined> {
    const { files, read } = this.o;
    try {
      for (let count = 1; ; count++) {
        const content = await read();
        const after = await signatureOf(files);
        if (after === before || count === tornReadsMax) return content;
        before = after;
      }
    } catch (error) {
      if (isTidemarkError(error)) return undefined;
      throw error;
    }
  }

  private take(): boolean {
    const nowMs = this.o.clock.monotonicMs();
    const count = Math.floor((nowMs - this.refilledAtMs) / refillMs);
    this.refilledAtMs += count * refillMs;
    this.tokens = Math.min(burstMax, this.tokens + count);
    if (this.tokens === 0) return false;
    this.tokens--;
    return true;
  }
}

async function signatureOf(files: readonly string[]): Promise<string> {
  const all = files.map(async (file) => {
    try {
      const { ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
      return `${ino} ${size} ${mtimeNs} ${ctimeNs}`;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? 'unknown';
    }
  });
  return (await Promise.all(all)).join('\n');
}
