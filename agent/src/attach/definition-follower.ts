/** Keeps the group's definition of one VM what it is now: read when asked, and whenever one of its files changes. */
import { isDeepStrictEqual } from 'node:util';
import type { SourceGroup } from '../capture/source-group.js';
import type { VmDefinition } from '../hypervisor/definition.js';
import type { Hypervisor, Vm } from '../hypervisor/hypervisor.js';
import { definitionHash } from '../stream/definitions.js';

export interface DefinitionFollowerOptions {
  readonly group: Pick<SourceGroup, 'setDefinition'>;
  readonly hypervisor: Pick<Hypervisor, 'readDefinition' | 'watchDefinition'>;
  readonly vm: Pick<Vm, 'name' | 'uuid'>;
}

export class DefinitionFollower {
  private known: VmDefinition | undefined;
  private hash: string | undefined;
  private unwatch: (() => void) | undefined;
  private stopped = false;

  constructor(private readonly o: DefinitionFollowerOptions) {}

  /** Throws what the hypervisor refuses; what was known stays. */
  async read(disks: VmDefinition['disks']): Promise<void> {
    const { hypervisor, vm } = this.o;
    const { known } = this;
    const definition = await hypervisor.readDefinition(vm, disks, known);
    if (this.stopped) return;
    const isSame = definition.domainXml === known?.domainXml && isDeepStrictEqual(definition.disks, known.disks);
    if (isSame) {
      // What the watch told while this was read is newer.
      if (this.known === known) this.take(definition);
      return;
    }
    this.unwatch?.();
    this.take(definition);
    this.unwatch = hypervisor.watchDefinition(definition, (changed) => this.take(changed));
  }

  /** The VM left the group. */
  forget(): void {
    this.stop();
    this.o.group.setDefinition(this.o.vm.name, undefined);
  }

  stop(): void {
    this.stopped = true;
    this.unwatch?.();
  }

  private take(definition: VmDefinition): void {
    this.known = definition;
    const content = Buffer.from(JSON.stringify(definition));
    const hash = definitionHash(content);
    if (hash === this.hash) return;
    this.hash = hash;
    this.o.group.setDefinition(this.o.vm.name, { hash, content });
  }
}
