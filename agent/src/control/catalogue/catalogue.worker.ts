/** The catalogue's thread: one request after the other, each answered by its number. */
import { parentPort, workerData } from 'node:worker_threads';
import { stepBack } from '../../platform/priority.js';
import { CatalogueDatabase } from './database.js';

export interface CatalogueRequest {
  readonly number: number;
  readonly method: Exclude<keyof CatalogueDatabase, 'close'> | 'close';
  readonly arguments: readonly unknown[];
}

export type CatalogueAnswer = { readonly number: number } & ({ readonly result: unknown } | { readonly error: string });

stepBack();
const port = parentPort!;
const database = new CatalogueDatabase((workerData as { file: string }).file);

port.on('message', (request: CatalogueRequest) => {
  try {
    const method = database[request.method] as (...values: readonly unknown[]) => unknown;
    port.postMessage({ number: request.number, result: method.apply(database, [...request.arguments]) });
  } catch (error) {
    port.postMessage({ number: request.number, error: (error as Error).message });
  }
  if (request.method === 'close') port.close();
});
