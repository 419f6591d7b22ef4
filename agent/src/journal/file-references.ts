/** Counts who reads a file, so that a dropped file is deleted when its last reader is done. */
import type { Storage } from '../core/storage.js';
import type { FileHandles } from './file-handles.js';

export class FileReferences {
  readonly #users = new Map<string, number>();
  readonly #dropped = new Set<string>();
  readonly #removing = new Set<Promise<void>>();

  constructor(
    private readonly storage: Storage,
    private readonly files: FileHandles,
  ) {}

  take(path: string): void {
    this.#users.set(path, (this.#users.get(path) ?? 0) + 1);
  }

  release(path: string): void {
    const users = (this.#users.get(path) ?? 0) - 1;
    if (users > 0) {
      this.#users.set(path, users);
      return;
    }
    this.#users.delete(path);
    if (this.#dropped.has(path)) this.#remove(path);
  }

  /** The file is not needed any more; a failed removal is made up for by the next open. */
  drop(path: string): void {
    this.#dropped.add(path);
    if (!this.#users.has(path)) this.#remove(path);
  }

  /** Waits for removals under way. */
  async settle(): Promise<void> {
    await Promise.all(this.#removing);
  }

  #remove(path: string): void {
    this.#dropped.delete(path);
    const removing = this.files
      .close(path)
      .then(() => this.storage.remove(path))
      .catch(() => undefined)
      .finally(() => this.#removing.delete(removing));
    this.#removing.add(removing);
  }
}
