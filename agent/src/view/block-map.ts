/** Which 4 KiB blocks of a disk lie in scratch. Memory: 1 KiB for each touched MiB; whole zero MiB and GiB share one page. */

export const blockBytes = 4096;
export const blocksPerPage = 256;
const pagesPerFolder = 1024;

/** Not in scratch. */
export const entryNone = 0;
/** Reads as zeros. */
export const entryZero = 1;
/** Slot s of the data file is stored as s + 2. */
export const entrySlot = 2;

const zeroPage = new Uint32Array(blocksPerPage).fill(entryZero);
const zeroFolder: (Uint32Array | undefined)[] = new Array<Uint32Array>(pagesPerFolder).fill(zeroPage);

export class BlockMap {
  readonly #folders: ((Uint32Array | undefined)[] | undefined)[] = [];
  /** Pages of its own (1 KiB each); shared ones are free. */
  pageCount = 0;

  get(block: number): number {
    const page = this.page(Math.floor(block / blocksPerPage));
    return page === undefined ? entryNone : page[block % blocksPerPage]!;
  }

  /** The entries of a page (256 blocks, 1 MiB of disk), to read only. */
  page(index: number): Uint32Array | undefined {
    return this.#folders[Math.floor(index / pagesPerFolder)]?.[index % pagesPerFolder];
  }

  /** Sets one entry; returns the old one. */
  set(block: number, entry: number): number {
    const index = Math.floor(block / blocksPerPage);
    const old = this.get(block);
    if (old !== entry) this.#own(index)[block % blocksPerPage] = entry;
    return old;
  }

  setPage(index: number, entries: Uint32Array): void {
    this.#own(index).set(entries);
  }

  /** Makes blocks zero; slots that are not needed any more go to `freed`. */
  zero(first: number, count: number, freed: (slot: number) => void): void {
    for (let block = first, end = first + count; block < end;) {
      const index = Math.floor(block / blocksPerPage);
      const folder = Math.floor(index / pagesPerFolder);
      if (
        index % pagesPerFolder === 0 &&
        block % blocksPerPage === 0 &&
        end - block >= pagesPerFolder * blocksPerPage
      ) {
        for (const page of this.#folders[folder] ?? []) this.#dropPage(page, freed);
        this.#folders[folder] = zeroFolder;
        block += pagesPerFolder * blocksPerPage;
      } else if (block % blocksPerPage === 0 && end - block >= blocksPerPage) {
        const pages = this.#ownFolder(folder);
        this.#dropPage(pages[index % pagesPerFolder], freed);
        pages[index % pagesPerFolder] = zeroPage;
        block += blocksPerPage;
      } else {
        const old = this.set(block, entryZero);
        if (old >= entrySlot) freed(old - entrySlot);
        block++;
      }
    }
  }

  /** Pages that hold anything, in order; whole zero ones as runs: `count` pages from `index`. */
  *pages(): Generator<{ index: number; count: number; entries: Uint32Array | undefined }> {
    for (let folder = 0; folder < this.#folders.length; folder++) {
      const pages = this.#folders[folder];
      if (pages === zeroFolder) {
        yield { index: folder * pagesPerFolder, count: pagesPerFolder, entries: undefined };
        continue;
      }
      for (let at = 0; at < (pages?.length ?? 0); at++) {
        const entries = pages![at];
        if (entries === undefined) continue;
        yield { index: folder * pagesPerFolder + at, count: 1, entries: entries === zeroPage ? undefined : entries };
      }
    }
  }

  #dropPage(page: Uint32Array | undefined, freed: (slot: number) => void): void {
    if (page === undefined || page === zeroPage) return;
    this.pageCount--;
    for (const entry of page) if (entry >= entrySlot) freed(entry - entrySlot);
  }

  #ownFolder(folder: number): (Uint32Array | undefined)[] {
    let pages = this.#folders[folder];
    if (pages === undefined) pages = this.#folders[folder] = [];
    else if (pages === zeroFolder) pages = this.#folders[folder] = [...zeroFolder];
    return pages;
  }

  #own(index: number): Uint32Array {
    const pages = this.#ownFolder(Math.floor(index / pagesPerFolder));
    const at = index % pagesPerFolder;
    let page = pages[at];
    if (page === undefined || page === zeroPage) {
      page = page === undefined ? new Uint32Array(blocksPerPage) : Uint32Array.from(zeroPage);
      pages[at] = page;
      this.pageCount++;
    }
    return page;
  }
}
