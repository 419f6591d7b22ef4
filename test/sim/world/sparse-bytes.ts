/** A byte array with holes, in pages of 4 KiB: what a file holds. */
export const pageBytes = 4096;

export class SparseBytes {
  #pages = new Map<number, Uint8Array>();
  #lengthBytes = 0;

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  get allocatedBytes(): number {
    return this.#pages.size * pageBytes;
  }

  /** Bytes that a write of this range would add to `allocatedBytes`. */
  growthBytes(positionBytes: number, lengthBytes: number): number {
    if (lengthBytes === 0) return 0;
    let count = 0;
    const last = Math.floor((positionBytes + lengthBytes - 1) / pageBytes);
    for (let page = Math.floor(positionBytes / pageBytes); page <= last; page++) if (!this.#pages.has(page)) count += 1;
    return count * pageBytes;
  }

  /** Fills `target`; returns the bytes read, fewer only at the end. */
  read(target: Uint8Array, positionBytes: number): number {
    const count = Math.max(0, Math.min(target.length, this.#lengthBytes - positionBytes));
    let done = 0;
    while (done < count) {
      const position = positionBytes + done;
      const skip = position % pageBytes;
      const step = Math.min(count - done, pageBytes - skip);
      const page = this.#pages.get((position - skip) / pageBytes);
      if (page === undefined) target.fill(0, done, done + step);
      else target.set(skip === 0 && step === pageBytes ? page : page.subarray(skip, skip + step), done);
      done += step;
    }
    return count;
  }

  write(source: Uint8Array, positionBytes: number): void {
    let done = 0;
    while (done < source.length) {
      const position = positionBytes + done;
      const skip = position % pageBytes;
      const step = Math.min(source.length - done, pageBytes - skip);
      const index = (position - skip) / pageBytes;
      let page = this.#pages.get(index);
      if (page === undefined) this.#pages.set(index, (page = new Uint8Array(pageBytes)));
      page.set(source.subarray(done, done + step), skip);
      done += step;
    }
    if (source.length > 0) this.#lengthBytes = Math.max(this.#lengthBytes, positionBytes + source.length);
  }

  truncate(lengthBytes: number): void {
    if (lengthBytes < this.#lengthBytes) {
      const keep = Math.ceil(lengthBytes / pageBytes);
      for (const index of this.#pages.keys()) if (index >= keep) this.#pages.delete(index);
      const rest = lengthBytes % pageBytes;
      if (rest > 0) this.#pages.get(keep - 1)?.fill(0, rest);
    }
    this.#lengthBytes = lengthBytes;
  }

  clone(): SparseBytes {
    const copy = new SparseBytes();
    for (const [index, page] of this.#pages) copy.#pages.set(index, page.slice());
    copy.#lengthBytes = this.#lengthBytes;
    return copy;
  }
}
