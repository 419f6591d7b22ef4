/** zstd for the links, on a thread of its own that starts with the first block. */
import type { Worker } from 'node:worker_threads';
import { startWorker } from '../core/worker.js';
import type { Compressor } from '../link/environment.js';

export interface CompressRequest {
  readonly number: number;
  readonly raw: Uint8Array<ArrayBuffer>;
  readonly level: number;
}

export interface CompressAnswer {
  readonly number: number;
  readonly compressed: Uint8Array<ArrayBuffer>;
}

interface Waiter {
  readonly resolve: (compressed: Uint8Array) => void;
  readonly reject: (error: Error) => void;
}

export class ZstdThread implements Compressor {
  #worker: Worker | undefined;
  #next = 0;
  readonly #waiters = new Map<number, Waiter>();

  /** Takes the memory of `raw` over. Rejects when the thread failed; the next call starts another. */
  compress(raw: Uint8Array<ArrayBuffer>, level: number): Promise<Uint8Array> {
    const worker = (this.#worker ??= this.#start());
    const request: CompressRequest = { number: this.#next++, raw, level };
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    this.#waiters.set(request.number, { resolve, reject });
    worker.postMessage(request, [raw.buffer]);
    return promise;
  }

  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const worker = startWorker('compress.worker.cjs', undefined);
    worker.on('message', ({ number, compressed }: CompressAnswer) => {
      this.#waiters.get(number)?.resolve(compressed);
      this.#waiters.delete(number);
    });
    worker.on('error', (error) => this.#failed(error));
    worker.on('exit', () => this.#failed(new Error('the compressing thread ended')));
    worker.unref();
    return worker;
  }

  #failed(error: Error): void {
    this.#worker = undefined;
    for (const { reject } of this.#waiters.values()) reject(error);
    this.#waiters.clear();
  }
}
