/** VMs of one libvirt daemon, by virsh. */
import { sleep, type Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { blockDevices, hasAlias } from './block-nodes.js';
import type { VmDefinition } from './definition.js';
import { parseDomain, refusalOf, type Domain } from './domain-xml.js';
import { FileWatch } from './file-watch.js';
import type { GuestAgent } from './guest-agent.js';
import type { Hypervisor, SourceNode, Vm, VmEvent, VmState } from './hypervisor.js';
import { LibvirtGuestAgent } from './libvirt-guest-agent.js';
import { LibvirtMonitor } from './libvirt-monitor.js';
import { parseMonitorEvent, parseVmEvent } from './libvirt-events.js';
import { definitionFiles, libvirtDefinition } from './libvirt-definition.js';
import type { Monitor, MonitorEvent } from './monitor.js';
import type { Virsh } from './virsh.js';
import { VirshLoop } from './virsh-loop.js';

type VmRef = Pick<Vm, 'name' | 'uuid'>;
const lookMs = 250;

export interface LibvirtOptions {
  readonly name: string;
  readonly virsh: Virsh;
  readonly clock: Clock;
}

const tpmRefusal = 'its VM has a TPM, whose state cannot be carried to the other site';

function stateOf(words: string): VmState {
  if (words === 'shut off' || words === 'crashed') return 'off';
  return words === 'paused' ? 'paused' : 'running';
}

export class LibvirtHypervisor implements Hypervisor {
  readonly kind = 'libvirt';
  readonly name: string;
  readonly #virsh: Virsh;
  readonly #clock: Clock;
  readonly #watchers = new Set<(event: VmEvent) => void>();
  readonly #monitorListeners = new Map<(event: MonitorEvent) => void, string>();
  #lifecycleLoop: VirshLoop | undefined;
  #monitorLoop: VirshLoop | undefined;

  constructor({ name, virsh, clock }: LibvirtOptions) {
    this.name = name;
    this.#virsh = virsh;
    this.#clock = clock;
  }

  guestAgent(vm: VmRef): GuestAgent {
    return new LibvirtGuestAgent(this.#virsh, vm);
  }

  async listVms(): Promise<Vm[]> {
    const uuids = (await this.#run(['list', '--all', '--uuid'])).split(/\s+/).filter((text) => text !== '');
    const vms: Vm[] = [];
    for (const uuid of uuids) {
      // One that was removed meanwhile is not an error of the list.
      const vm = await this.findVm(uuid).catch((error: unknown) => {
        if (isTidemarkError(error, 'vm-unknown')) return undefined;
        throw error;
      });
      if (vm !== undefined) vms.push(vm);
    }
    return vms.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async findVm(nameOrUuid: string): Promise<Vm> {
    const domain = parseDomain(await this.#definition(nameOrUuid, []));
    const [words = '', reason] = (await this.#ofVm(domain.uuid, ['domstate', domain.uuid, '--reason'])).split(/[()]/);
    const state = stateOf(words.trim());
    const sizes = await this.#sizes(domain);
    const disks = domain.disks.map((disk) => ({
      target: disk.target,
      sizeBytes: sizes.get(disk.target) ?? 0,
      format: disk.format,
      source: disk.source,
      refusal: refusalOf(disk) ?? (domain.hasTpm ? tpmRefusal : undefined),
    }));
    return { name: domain.name, uuid: domain.uuid, state, movedAway: state === 'off' && reason === 'migrated', disks };
  }

  watch(listener: (event: VmEvent) => void): () => void {
    this.#watchers.add(listener);
    this.#lifecycleLoop ??= new VirshLoop({
      ...{ virsh: this.#virsh, clock: this.#clock },
      args: ['event', '--all', '--loop', '--timestamp'],
      onLine: (line) => this.#tell(parseVmEvent(line)),
      onStart: () => this.#tell({ vm: undefined, kind: 'unknown' }),
    });
    return () => {
      this.#watchers.delete(listener);
      if (this.#watchers.size > 0) return;
      this.#lifecycleLoop?.stop();
      this.#lifecycleLoop = undefined;
    };
  }

  async monitor({ name, uuid }: VmRef): Promise<Monitor> {
    const words = (await this.#ofVm(uuid, ['domstate', uuid])).trim();
    if (words === 'shut off' || words === 'crashed')
      throw new TidemarkError('illegal-state', `VM ${name} does not run.`);
    return new LibvirtMonitor(this.#virsh, uuid, (_uuid, listener) => this.#monitorEvents(name, listener));
  }

  async findNode({ name, uuid }: VmRef, target: string, monitor: Monitor): Promise<SourceNode> {
    const { disks } = parseDomain(await this.#definition(uuid, []));
    const disk = disks.find((each) => each.target === target);
    if (disk?.alias === undefined) throw new TidemarkError('disk-unknown', `VM ${name} has no disk ${target} now.`);
    const { alias } = disk;
    const device = (await blockDevices(monitor)).find((each) => hasAlias(each, alias));
    if (device?.inserted === undefined)
      throw new TidemarkError('disk-unknown', `QEMU of ${name} has no device for ${target} (${alias}).`);
    return { nodeName: device.inserted['node-name'], sizeBytes: device.inserted.image['virtual-size'] };
  }

  async readDefinition(
    { name, uuid }: VmRef,
    disks: VmDefinition['disks'],
    known?: VmDefinition,
  ): Promise<VmDefinition> {
    const persistent = /Persistent:\s+yes/.test(await this.#ofVm(uuid, ['dominfo', uuid]));
    const xml = await this.#definition(uuid, persistent ? ['--inactive'] : []);
    return libvirtDefinition(name, xml, disks, known);
  }

  watchDefinition(definition: VmDefinition, changed: (definition: VmDefinition) => void): () => void {
    const files = definitionFiles(definition);
    if (files.length === 0) return () => undefined;
    let known = definition;
    const watch = new FileWatch({
      ...{ files, clock: this.#clock },
      read: () => libvirtDefinition(known.name, known.domainXml, known.disks, known),
      tell: (read) => {
        known = read;
        changed(read);
      },
    });
    return () => watch.stop();
  }

  async startVm({ uuid }: VmRef): Promise<void> {
    if (await this.#isOff(uuid)) await this.#ofVm(uuid, ['start', uuid]);
  }

  async shutdownVm({ uuid }: VmRef, graceMs: number): Promise<boolean> {
    const deadlineMs = this.#clock.monotonicMs() + graceMs;
    if (await this.#isOff(uuid)) return true;
    await this.#unlessOff(uuid, ['shutdown', uuid]);
    while (!(await this.#isOff(uuid))) {
      if (this.#clock.monotonicMs() > deadlineMs) return false;
      await sleep(this.#clock, lookMs);
    }
    return true;
  }

  async destroyVm({ uuid }: VmRef): Promise<void> {
    if (!(await this.#isOff(uuid))) await this.#unlessOff(uuid, ['destroy', uuid]);
  }

  #monitorEvents(name: string, listener: (event: MonitorEvent) => void): () => void {
    const own = (event: MonitorEvent): void => listener(event);
    this.#monitorListeners.set(own, name);
    this.#monitorLoop ??= new VirshLoop({
      ...{ virsh: this.#virsh, clock: this.#clock },
      args: ['qemu-monitor-event', '--loop', '--timestamp'],
      onLine: (line) => {
        const event = parseMonitorEvent(line);
        if (event === undefined) return;
        for (const [told, vm] of [...this.#monitorListeners]) if (vm === event.vm) told(event);
      },
      onStart: () => this.#tell({ vm: undefined, kind: 'unknown' }),
    });
    return () => {
      this.#monitorListeners.delete(own);
      if (this.#monitorListeners.size > 0) return;
      this.#monitorLoop?.stop();
      this.#monitorLoop = undefined;
    };
  }

  #tell(event: VmEvent | undefined): void {
    if (event !== undefined) for (const watcher of [...this.#watchers]) watcher(event);
  }

  async #isOff(uuid: string): Promise<boolean> {
    const words = (await this.#ofVm(uuid, ['domstate', uuid])).trim();
    return words === 'shut off' || words === 'crashed';
  }

  async #unlessOff(uuid: string, args: readonly string[]): Promise<void> {
    try {
      await this.#ofVm(uuid, args);
    } catch (error) {
      if (!(await this.#isOff(uuid))) throw error;
    }
  }

  #definition(nameOrUuid: string, flags: readonly string[]): Promise<string> {
    return this.#ofVm(nameOrUuid, ['dumpxml', `--domain=${nameOrUuid}`, ...flags]);
  }

  /** Capacities by target; what cannot be asked is left out. */
  async #sizes({ uuid, disks }: Domain): Promise<Map<string, number>> {
    const sizes = new Map<string, number>();
    if (disks.length === 0) return sizes;
    const text = await this.#run(['domblkinfo', uuid, '--all']).catch((error: unknown) => {
      if (isTidemarkError(error, 'hypervisor-failed')) return '';
      throw error;
    });
    for (const line of text.split('\n')) {
      const [target, capacity] = line.trim().split(/\s+/);
      if (target !== undefined && /^\d+$/.test(capacity ?? '')) sizes.set(target, Number(capacity));
    }
    return sizes;
  }

  /** virsh about one VM; `vm-unknown` when there is none of that name. */
  async #ofVm(nameOrUuid: string, args: readonly string[]): Promise<string> {
    try {
      return await this.#run(args);
    } catch (error) {
      if (!isTidemarkError(error, 'hypervisor-failed') || !/failed to get domain|Domain not found/i.test(error.message))
        throw error;
      throw new TidemarkError('vm-unknown', `Hypervisor ${this.name} has no VM ${nameOrUuid}.`, { cause: error });
    }
  }

  async #run(args: readonly string[]): Promise<string> {
    try {
      return await this.#virsh.run(args);
    } catch (error) {
      if (!isTidemarkError(error, 'hypervisor-failed') || !/failed to connect|ENOENT/i.test(error.message)) throw error;
      throw new TidemarkError('hypervisor-unreachable', `Hypervisor ${this.name}: ${error.message}`, { cause: error });
    }
  }
}
