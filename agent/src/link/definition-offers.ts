/**
 * The VM definitions that one link's marks name. A definition is offered when it is new and at every connection, sent when
 * the target wants it, and named from the moment that the target called it stored; until then marks name the one before.
 */
import type { DefinitionBlob } from '../stream/definitions.js';
import type { DefinitionState } from '../stream/messages.js';
import type { Session } from './session.js';

export class DefinitionOffers {
  private readonly current = new Map<string, DefinitionBlob>();
  /** By VM: the newest hash that this target holds. */
  private readonly stored = new Map<string, string>();
  private session: Session | undefined;

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
    if (this.current.get(vm)?.hash === blob.hash) return;
    this.current.set(vm, blob);
    this.session?.sendOffer([blob.hash]);
  }

  /** A connection was welcomed: the target may have lost what it had, so all is offered again. */
  connected(session: Session): void {
    this.session = session;
    const hashes = [...new Set([...this.current.values()].map(({ hash }) => hash))];
    if (hashes.length > 0) session.sendOffer(hashes);
  }

  disconnected(): void {
    this.session = undefined;
  }

  /** The target's answer. */
  answered({ hash, state, reason }: DefinitionState): void {
    const vms = [...this.current].filter(([, blob]) => blob.hash === hash);
    const blob = vms[0]?.[1];
    if (blob === undefined) return;
    if (state === 'wanted') this.session?.sendDefinition(blob);
    else if (state === 'stored') for (const [vm] of vms) this.stored.set(vm, hash);
    else for (const [vm] of vms) this.onRefused(vm, reason ?? 'refused');
  }
}
