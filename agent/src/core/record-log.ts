/** An append-only log of JSON records on Storage with group commit; format and rules: record-log-file.ts. */
import { isTidemarkError, TidemarkError } from './errors.js';
import { invariant } from './invariant.js';
import {
  createFile,
  encodeFrame,
  frameBytesGoal,
  frameBytesMax,
  openFile,
  pathOf,
  publish,
  readPointer,
  refuseOrphans,
  removeOthers,
  type OpenFile,
} from './record-log-file.js';
import type { Storage, StorageFile } from './storage.js';

interface Task {
  /** JSON text of the record, or all texts of a rewrite. */
  readonly texts: readonly string[];
  readonly rewrite: boolean;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** The log; one instance a name at a time. */
export class RecordLog {
  readonly #storage: Storage;
  readonly #directory: string;
  readonly #name: string;
  #file: StorageFile;
  #generation: number;
  #frameNumber: number;
  #endBytes: number;
  #queue: Task[] = [];
  #running: Promise<void> | undefined;
  #poison: unknown;

  private constructor(storage: Storage, directory: string, name: string, at: OpenFile) {
    this.#storage = storage;
    this.#directory = directory;
    this.#name = name;
    this.#file = at.file;
    this.#generation = at.generation;
    this.#frameNumber = at.frameNumber;
    this.#endBytes = at.endBytes;
  }

  /**
   * Opens or creates the log and returns its records in order. Throws `journal-corrupt`, `format-version` or a storage
   * error. The directory must exist.
   */
  static async open(
    storage: Storage,
    directory: string,
    name: string,
  ): Promise<{ log: RecordLog; records: unknown[] }> {
    const records: unknown[] = [];
    const generation = await readPointer(storage, directory, name);
    if (generation === undefined) await refuseOrphans(storage, directory, name);
    let at: OpenFile;
    if (generation === undefined) {
      at = await createFile(storage, directory, name, 1, []);
      await publish(storage, directory, name, 1);
    } else {
      at = await openFile(storage, directory, name, generation, records);
    }
    // A rename whose directory sync failed is seen but not durable: it must be before the old file goes.
    await storage.syncDirectory(directory);
    await removeOthers(storage, directory, name, at.generation);
    return { log: new RecordLog(storage, directory, name, at), records };
  }

  /** Bytes of the file; the caller rewrites when they are far above what a snapshot needs. */
  get sizeBytes(): number {
    return this.#endBytes;
  }

  /** True after a failure: every append rejects until the log is opened again. */
  get poisoned(): boolean {
    return this.#poison !== undefined;
  }

  /** Resolves when the record is durable; records become durable in call order. A rejection poisons the log. */
  append(record: unknown): Promise<void> {
    return this.#push([JSON.stringify(record)], false);
  }

  /**
   * Replaces the content by `records`, which must say all that was appended before the call; appends made after the
   * call land behind them. A failure before the switch leaves the log as it was; one at the switch poisons it.
   */
  rewrite(records: readonly unknown[]): Promise<void> {
    return this.#push(
      records.map((record) => JSON.stringify(record)),
      true,
    );
  }

  /** Waits for what is queued and closes the file. Idempotent. */
  async close(): Promise<void> {
    await this.#running;
    this.#poison ??= new TidemarkError('shutting-down', `The log ${this.#name} is closed.`);
    await this.#file.close();
  }

  #push(texts: string[], rewrite: boolean): Promise<void> {
    for (const text of texts) invariant(Buffer.byteLength(text) < frameBytesMax, 'record log: record over its bound');
    return new Promise((resolve, reject) => {
      if (this.#poison !== undefined) {
        reject(this.#poisonedError());
        return;
      }
      this.#queue.push({ texts, rewrite, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  async #run(): Promise<void> {
    // Gathers what the caller queues in the same turn.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const first = this.#queue[0];
      if (first?.rewrite) {
        this.#queue.shift();
        await this.#runRewrite(first);
      } else {
        await this.#runAppend(this.#takeBatch());
      }
    }
    this.#running = undefined;
  }

  #takeBatch(): Task[] {
    const batch: Task[] = [];
    let bytes = 0;
    while (bytes < frameBytesGoal) {
      const task = this.#queue[0];
      if (task === undefined || task.rewrite) break;
      const taskBytes = Buffer.byteLength(task.texts[0] ?? '') + 1;
      if (batch.length > 0 && bytes + taskBytes > frameBytesMax) break;
      bytes += taskBytes;
      batch.push(task);
      this.#queue.shift();
    }
    return batch;
  }

  async #runAppend(batch: Task[]): Promise<void> {
    const texts = batch.flatMap((task) => task.texts);
    const frame = encodeFrame(this.#generation, this.#frameNumber + 1, texts);
    try {
      await this.#file.write(frame, this.#endBytes);
      await this.#file.datasync();
    } catch (error) {
      this.#fail(error, batch);
      return;
    }
    this.#frameNumber++;
    this.#endBytes += frame.length;
    for (const task of batch) task.resolve();
  }

  async #runRewrite(task: Task): Promise<void> {
    let next: OpenFile;
    try {
      next = await createFile(this.#storage, this.#directory, this.#name, this.#generation + 1, task.texts);
    } catch (error) {
      task.reject(error);
      return;
    }
    try {
      await publish(this.#storage, this.#directory, this.#name, next.generation);
    } catch (error) {
      await next.file.close();
      this.#fail(error, [task]);
      return;
    }
    const old = this.#file;
    const oldGeneration = this.#generation;
    this.#file = next.file;
    this.#generation = next.generation;
    this.#frameNumber = next.frameNumber;
    this.#endBytes = next.endBytes;
    task.resolve();
    // A left-over is removed by the next open.
    await old.close().catch(() => undefined);
    await this.#storage.remove(pathOf(this.#directory, this.#name, oldGeneration)).catch(() => undefined);
  }

  #fail(error: unknown, batch: readonly Task[]): void {
    this.#poison = error;
    for (const task of [...batch, ...this.#queue]) task.reject(this.#poisonedError());
    this.#queue = [];
  }

  #poisonedError(): TidemarkError {
    const cause = this.#poison;
    const code = isTidemarkError(cause) ? cause.code : 'storage-io';
    const reason = cause instanceof Error ? cause.message : String(cause);
    return new TidemarkError(code, `The log ${this.#name} takes no more records: ${reason}`, {
      path: this.#directory,
      cause,
    });
  }
}
