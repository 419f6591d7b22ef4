/** VM definitions of one connection: what is not here is asked for, what came is stored, one after the other. */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { DefinitionBlob } from '../stream/definitions.js';
import type { DefinitionState, Offer } from '../stream/messages.js';
import type { DefinitionStore } from './definitions.js';

/** Definitions in memory at once. */
const pendingMax = 16;

export class DefinitionIntake {
  private readonly wanted = new Set<string>();
  private readonly asking: string[] = [];
  private pendingCount = 0;

  constructor(
    private readonly store: DefinitionStore,
    private readonly answer: (state: DefinitionState) => void,
  ) {}

  offered({ hashes }: Offer): void {
    for (const hash of hashes) void this.look(hash);
  }

  /** Throws `protocol-error` for one that was not asked for. */
  arrived(blob: DefinitionBlob): void {
    if (!this.wanted.delete(blob.hash))
      throw new TidemarkError('protocol-error', 'A definition came that was not asked for.');
    void this.keep(blob);
  }

  private async look(hash: string): Promise<void> {
    try {
      if (await this.store.has(hash)) this.answer({ hash, state: 'stored' });
      else if (this.pendingCount < pendingMax) this.ask(hash);
      else this.asking.push(hash);
    } catch (error) {
      this.failed(hash, error);
    }
  }

  private ask(hash: string): void {
    if (this.wanted.has(hash)) return;
    this.pendingCount++;
    this.wanted.add(hash);
    this.answer({ hash, state: 'wanted' });
  }

  private async keep(blob: DefinitionBlob): Promise<void> {
    try {
      await this.store.store(blob);
      this.answer({ hash: blob.hash, state: 'stored' });
    } catch (error) {
      this.failed(blob.hash, error);
    }
    this.pendingCount--;
    const next = this.asking.shift();
    if (next !== undefined) this.ask(next);
  }

  /** Definitions never end a connection: the data goes on, marks go without this one. */
  private failed(hash: string, error: unknown): void {
    if (!isTidemarkError(error)) throw error;
    this.answer({ hash, state: 'refused', reason: error.message.slice(0, 512) });
  }
}
