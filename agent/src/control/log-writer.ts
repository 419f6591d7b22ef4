/**
 * Where log lines go: a queue in memory, written to a descriptor by the thread pool, one write at a time. Whoever reads
 * the log (a pipe, journald, a disk) may hang for ever: logging never waits for it. Over the bound lines are dropped,
 * and how many is said when there is room again.
 */
import * as fs from 'node:fs';

const queuedBytesMax = 4 * 1024 * 1024;
/** A descriptor that is full and does not block is tried again after so long. */
const againMs = 20;
/** What a crash gives a write under way that may never end. */
const crashWaitMs = 200;

export class LogWriter {
  readonly #fd: number;
  #queue: string[] = [];
  #queuedBytes = 0;
  /** The rest of what is being written. */
  #writing: Buffer | undefined;
  #droppedCount = 0;
  #idle: (() => void)[] = [];

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(line: string): void {
    if (this.#queuedBytes + line.length > queuedBytesMax) {
      this.#droppedCount++;
      return;
    }
    this.#queue.push(line);
    this.#queuedBytes += line.length;
    if (this.#writing === undefined) this.#next();
  }

  /** Resolves when all is written, or after `timeoutMs`. */
  flush(timeoutMs: number): Promise<void> {
    if (this.#writing === undefined) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#idle.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  /** For the last lines of a process in which nothing may run any more. */
  flushNow(): void {
    const rest = this.#take();
    try {
      if (this.#writing === undefined) fs.writeSync(this.#fd, rest);
      else {
        // The thread pool writes on while this thread waits; the callback is never run.
        fs.write(this.#fd, rest, () => undefined);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, crashWaitMs);
      }
    } catch {
      // Nobody reads the log.
    }
  }

  #take(): Buffer {
    if (this.#droppedCount > 0) {
      const fields = { level: 'warn', time: new Date().toISOString(), event: 'log-lines-dropped' };
      this.#queue.push(`${JSON.stringify({ ...fields, count: this.#droppedCount, msg: 'nobody took the log' })}\n`);
      this.#droppedCount = 0;
    }
    const text = Buffer.from(this.#queue.join(''));
    this.#queue = [];
    this.#queuedBytes = 0;
    return text;
  }

  #next(): void {
    const text = this.#take();
    this.#writing = text.length === 0 ? undefined : text;
    if (this.#writing !== undefined) this.#writeSome(this.#writing);
    else for (const resolve of this.#idle.splice(0)) resolve();
  }

  #writeSome(bytes: Buffer): void {
    fs.write(this.#fd, bytes, (error, count) => {
      if (error?.code === 'EAGAIN') {
        setTimeout(() => this.#writeSome(bytes), againMs);
        return;
      }
      // Any other error: the reader is gone, the text is lost.
      const rest = error === null ? bytes.subarray(count) : undefined;
      if (rest === undefined || rest.length === 0) {
        this.#next();
      } else {
        this.#writing = rest;
        this.#writeSome(rest);
      }
    });
  }
}
