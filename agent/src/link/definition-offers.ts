/**
 * The VM definitions that one link's marks name. A definition is offered when it is new and at every connection, sent when
 * the target wants it, and named from the moment that the target called it stored; until then marks name the one before.
 * Of one VM only one is on its way: what changes meanwhile is offered, in its newest state, when that one was answered.
 */
import type { DefinitionBlob } from '../stream/definitions.js';
import type { DefinitionState } from '../stream/messages.js';
import type { Session } from './session.js';

export class DefinitionOffers {
  private readonly current = new Map<string, DefinitionBlob>();
  /** By VM: the newest hash that this target holds. */
  private readonly stored = new Map<string, string>();
  /** By VM: offered on this connection, not yet stored or refused. The target counts on what it asked for. */
  private readonly offered = new Map<string, DefinitionBlob>();
  /** By VM: what this connection's target does not take. */
  private readonly refused = new Map<string, string>();
  private session: Pick<Session, 'sendOffer' | 'sendDefinition'> | undefined;

  constructor(private readonly onRefused: (vm: string, reason: string) => void) {}

  /** `{vm: hash}` for the next mark; undefined: nothing to name. */
  get named(): Readonly<Record<string, string>> | undefined {
    return this.stored.size === 0 ? undefined : Object.fromEntries(this.stored);
  }

  /** The VM's definition from now on; undefined: the VM left the group. */
  set(vm: string, blob: DefinitionBlob | undefined): void {
    if (blob === undefined) {
      this.current.delete(vm);
      this.stored.delete(vm);
      return;
    }
    this.current.set(vm, blob);
    this.offerNew();
  }

  /** A connection was welcomed: the target may have lost what it had, so all is offered again. */
  connected(session: Pick<Session, 'sendOffer' | 'sendDefinition'>): void {
    this.session = session;
    this.offered.clear();
    this.refused.clear();
    this.offer(() => true);
  }

  disconnected(): void {
    this.session = undefined;
  }

  /** The target's answer. */
  answered({ hash, state, reason }: DefinitionState): void {
    const vms = [...this.offered].filter(([, blob]) => blob.hash === hash);
    const blob = vms[0]?.[1];
    if (blob === undefined) return;
    if (state === 'wanted') {
      this.session?.sendDefinition(blob);
      return;
    }
    for (const [vm] of vms) {
      this.offered.delete(vm);
      if (state === 'stored' && this.current.has(vm)) this.stored.set(vm, hash);
      if (state !== 'stored') {
        this.refused.set(vm, hash);
        this.onRefused(vm, reason ?? 'refused');
      }
    }
    this.offerNew();
  }

  private offerNew(): void {
    this.offer(({ hash }, vm) => hash !== this.stored.get(vm));
  }

  private offer(needed: (blob: DefinitionBlob, vm: string) => boolean): void {
    const { session } = this;
    if (session === undefined) return;
    const hashes = new Set<string>();
    for (const [vm, blob] of this.current) {
      if (this.offered.has(vm) || this.refused.get(vm) === blob.hash || !needed(blob, vm)) continue;
      this.offered.set(vm, blob);
      hashes.add(blob.hash);
    }
    if (hashes.size > 0) session.sendOffer([...hashes]);
  }
}
