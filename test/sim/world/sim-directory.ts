/**
 * Names of the simulated file system: those that lookups see, those on the platter, and the changes between the two.
 * A rename is one change when it stays in a directory. Across directories it is two that share a fate, unless the
 * receiving directory was synced alone: then both names may exist. A crash never loses both.
 */
import type { SimInode } from './sim-inode.js';

export type SimNode = SimInode | SimDirectory;

/** The two halves of a rename across directories. */
export interface RenamePair {
  /** The new name is on the platter, or must get there because the old one is gone from it. */
  linkDurable: boolean;
  /** Decided by the first half that a crash looks at. */
  kept: boolean | undefined;
}

export interface NameChange {
  /** Order over the whole file system. */
  readonly serial: number;
  /** Undefined: the name is removed. */
  readonly names: readonly (readonly [name: string, node: SimNode | undefined])[];
  readonly pair?: { readonly rename: RenamePair; readonly half: 'link' | 'unlink' };
}

export class SimDirectory {
  entries = new Map<string, SimNode>();
  #durable = new Map<string, SimNode>();
  #unsynced: NameChange[] = [];

  change(change: NameChange): void {
    apply(this.entries, change);
    this.#unsynced.push(change);
  }

  /** A sync that was asked for when the file system's serial was this succeeded. */
  syncBelow(serial: number): void {
    let count = 0;
    for (; count < this.#unsynced.length && this.#unsynced[count]!.serial < serial; count++) {
      const change = this.#unsynced[count]!;
      apply(this.#durable, change);
      if (change.pair !== undefined) change.pair.rename.linkDurable = true;
    }
    this.#unsynced.splice(0, count);
  }

  /** The machine lost power; `keep` decides over each change whose fate is open. */
  crash(keep: (change: NameChange) => boolean): void {
    for (const change of this.#unsynced) if (decide(change, keep)) apply(this.#durable, change);
    this.#unsynced = [];
    this.entries = new Map(this.#durable);
  }
}

function decide(change: NameChange, keep: (change: NameChange) => boolean): boolean {
  if (change.pair === undefined) return keep(change);
  const { rename, half } = change.pair;
  if (rename.linkDurable) return half === 'link' || keep(change);
  rename.kept ??= keep(change);
  return rename.kept;
}

function apply(entries: Map<string, SimNode>, change: NameChange): void {
  for (const [name, node] of change.names) {
    if (node === undefined) entries.delete(name);
    else entries.set(name, node);
  }
}
