/** The {@link Catalogue} on its own worker thread, so that SQLite's synchronous I/O never holds the data path. */
import type { Worker } from 'node:worker_threads';
import { TidemarkError } from '../../core/errors.js';
import { startWorker } from '../../core/worker.js';
import type { Checkpoint, CheckpointPage, CheckpointQuery } from '../../service/checkpoint-schemas.js';
import type { Operation, OperationPage, OperationQuery } from '../../service/operation-schemas.js';
import type { Catalogue, CatalogueChange, GroupTruth, Mark } from './catalogue.js';
import type { CatalogueAnswer, CatalogueRequest } from './catalogue.worker.js';
import type { CatalogueRows } from './database.js';

/** Requests that wait for the thread; more are refused with `overloaded`. */
export const requestCountMax = 1024;
/** Rows of one message of a rebuild. */
const pieceRowCount = 1000;

export class WorkerCatalogue implements Catalogue {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  #lastNumber = 0;
  #failure: Error | undefined;
  #rebuilding: Promise<void> = Promise.resolve();

  /** A missing file is made, a damaged one remade; both are empty and want a rebuild of every group. */
  constructor(file: string) {
    this.#worker = startWorker('catalogue.worker.cjs', { file });
    this.#worker.on('message', (answer: CatalogueAnswer) => {
      const request = this.#waiting.get(answer.number);
      this.#waiting.delete(answer.number);
      if ('error' in answer)
        request?.reject(new TidemarkError('storage-io', `catalogue: ${answer.error}`, { path: file }));
      else request?.resolve(answer.result as never);
    });
    this.#worker.on('error', (error) =>
      this.#fail(
        new TidemarkError('storage-io', `the catalogue's thread failed: ${error.message}`, {
          path: file,
          cause: error,
        }),
      ),
    );
    this.#worker.on('exit', () => this.#fail(new TidemarkError('shutting-down', 'the catalogue is closed')));
  }

  mark(group: string): Promise<Mark | undefined> {
    return this.#call('mark', group);
  }

  put(change: CatalogueChange): Promise<boolean> {
    return this.#call('put', change);
  }

  /** One rebuild at a time; while it runs, puts of the group answer false. */
  rebuild(truth: GroupTruth): Promise<void> {
    const run = this.#rebuilding.then(() => this.#rebuild(truth));
    this.#rebuilding = run.catch(() => {});
    return run;
  }

  removeGroup(group: string): Promise<void> {
    return this.#call('removeGroup', group);
  }

  checkpoints(group: string, query: CheckpointQuery): Promise<CheckpointPage> {
    return this.#call('checkpoints', group, query);
  }

  checkpoint(group: string, id: string): Promise<Checkpoint | undefined> {
    return this.#call('checkpoint', group, id);
  }

  operations(query: OperationQuery): Promise<OperationPage> {
    return this.#call('operations', query);
  }

  operation(id: string): Promise<Operation | undefined> {
    return this.#call('operation', id);
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (this.#failure !== undefined) return;
    const exited = new Promise<void>((resolve) => this.#worker.once('exit', () => resolve()));
    await this.#call<void>('close').catch(() => this.#worker.terminate());
    await exited;
  }

  async #rebuild(truth: GroupTruth): Promise<void> {
    await this.#call<void>('rebuildBegin', truth.group);
    for (const checkpoints of pieces(truth.checkpoints))
      await this.#call<void>('rebuildRows', truth.group, { checkpoints } satisfies CatalogueRows);
    for (const operations of pieces(truth.operations))
      await this.#call<void>('rebuildRows', truth.group, { operations } satisfies CatalogueRows);
    await this.#call<void>('rebuildEnd', truth.group, truth.mark);
  }

  #call<Result>(method: CatalogueRequest['method'], ...values: readonly unknown[]): Promise<Result> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#waiting.size >= requestCountMax)
      return Promise.reject(new TidemarkError('overloaded', `${requestCountMax} requests wait for the catalogue`));
    const number = ++this.#lastNumber;
    return new Promise<Result>((resolve, reject) => {
      this.#waiting.set(number, { resolve: resolve as (value: never) => void, reject });
      this.#worker.postMessage({ number, method, arguments: values } satisfies CatalogueRequest);
    });
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.values()) reject(this.#failure);
    this.#waiting.clear();
  }
}

function* pieces<Row>(rows: Iterable<Row>): Generator<Row[]> {
  let piece: Row[] = [];
  for (const row of rows) {
    piece.push(row);
    if (piece.length < pieceRowCount) continue;
    yield piece;
    piece = [];
  }
  if (piece.length > 0) yield piece;
}
