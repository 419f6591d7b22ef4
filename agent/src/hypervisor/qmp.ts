/** VMs known by their QEMU monitor sockets (Proxmox has one for each VM): capture only, without definitions of libvirt. */
import { createHash } from 'node:crypto';
import { sleep, type Clock, type Timer } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { z } from 'zod';
import { blockDevices, targetOf, type BlockDeviceInfo } from './block-nodes.js';
import type { VmDefinition } from './definition.js';
import type { Hypervisor, SourceNode, Vm, VmDisk, VmEvent } from './hypervisor.js';
import { query, type Monitor, type MonitorEvent } from './monitor.js';
import { QmpSocket } from './qmp-socket.js';

type VmRef = Pick<Vm, 'name' | 'uuid'>;
const lookMs = 250;
const zeroUuid = '00000000-0000-0000-0000-000000000000';

export interface QmpHypervisorOptions {
  readonly name: string;
  readonly monitors: readonly { readonly vm: string; readonly socket: string }[];
  readonly clock: Clock;
}

const vmEvents: Readonly<Record<string, VmEvent['kind']>> = {
  RESET: 'rebooted',
  STOP: 'paused',
  RESUME: 'resumed',
  GUEST_PANICKED: 'crashed',
  DEVICE_DELETED: 'disk-removed',
};

/**
 * QEMU serves one client at a monitor, so each VM has one connection here, shared by all who ask for it; it is made
 * when it is asked for, and while somebody watches, it is made again whenever it is lost.
 */
export class QmpHypervisor implements Hypervisor {
  readonly kind = 'qmp';
  readonly name: string;
  readonly #clock: Clock;
  readonly #sockets: ReadonlyMap<string, string>;
  readonly #open = new Map<string, Promise<QmpSocket>>();
  readonly #watchers = new Set<(event: VmEvent) => void>();
  #timer: Timer | undefined;

  constructor({ name, monitors, clock }: QmpHypervisorOptions) {
    this.name = name;
    this.#clock = clock;
    this.#sockets = new Map(monitors.map(({ vm, socket }) => [vm, socket]));
  }

  guestAgent(): undefined {
    return undefined;
  }

  async listVms(): Promise<Vm[]> {
    const vms: Vm[] = [];
    for (const name of [...this.#sockets.keys()].sort()) vms.push(await this.findVm(name));
    return vms;
  }

  /** A UUID finds only running VMs: QEMU itself tells it. */
  async findVm(nameOrUuid: string): Promise<Vm> {
    if (this.#sockets.has(nameOrUuid)) return this.#describe(nameOrUuid);
    for (const name of this.#sockets.keys()) {
      const vm = await this.#describe(name);
      if (vm.uuid === nameOrUuid) return vm;
    }
    throw new TidemarkError('vm-unknown', `Hypervisor ${this.name} has no VM ${nameOrUuid}.`);
  }

  watch(listener: (event: VmEvent) => void): () => void {
    this.#watchers.add(listener);
    if (this.#watchers.size === 1) this.#keepOpen();
    return () => {
      this.#watchers.delete(listener);
      if (this.#watchers.size > 0) return;
      this.#timer?.cancel();
      for (const socket of this.#open.values()) void socket.then((each) => each.close()).catch(() => undefined);
    };
  }

  async monitor({ name }: VmRef): Promise<Monitor> {
    try {
      return shared(await this.#socket(name));
    } catch (error) {
      if (!isTidemarkError(error, 'hypervisor-unreachable')) throw error;
      throw new TidemarkError('illegal-state', `VM ${name} does not run: ${error.message}`, { cause: error });
    }
  }

  async findNode({ name }: VmRef, target: string, monitor: Monitor): Promise<SourceNode> {
    const device = (await blockDevices(monitor)).find((each) => targetOf(each) === target);
    if (device?.inserted === undefined)
      throw new TidemarkError('disk-unknown', `VM ${name} has no disk ${target} now.`);
    const { inserted } = device;
    return { nodeName: inserted['node-name'], sizeBytes: inserted.image['virtual-size'] };
  }

  async readDefinition({ name, uuid }: VmRef, disks: VmDefinition['disks']): Promise<VmDefinition> {
    return Promise.resolve({ name, uuid, domainXml: '', disks: [...disks], files: [] });
  }

  watchDefinition(): () => void {
    return () => undefined;
  }

  /** A monitor ends with its QEMU: whoever started that must do it again. */
  async startVm({ name }: VmRef): Promise<void> {
    if ((await this.findVm(name)).state !== 'off') return;
    throw new TidemarkError('illegal-state', `VM ${name} is known by its monitor alone: start its QEMU by hand.`);
  }

  async shutdownVm({ name }: VmRef, graceMs: number): Promise<boolean> {
    const socket = await this.#socket(name).catch(() => undefined);
    if (socket === undefined) return true;
    await socket.execute('system_powerdown').catch((error: unknown) => ignoreGone(error));
    return this.#gone(socket, graceMs);
  }

  async destroyVm({ name }: VmRef): Promise<void> {
    const socket = await this.#socket(name).catch(() => undefined);
    if (socket === undefined) return;
    await socket.execute('quit').catch((error: unknown) => ignoreGone(error));
    if (!(await this.#gone(socket, 10_000)))
      throw new TidemarkError('timed-out', `QEMU of ${name} did not end within 10 s.`);
  }

  async #gone(socket: QmpSocket, graceMs: number): Promise<boolean> {
    return Promise.race([socket.closed.then(() => true), sleep(this.#clock, graceMs).then(() => false)]);
  }

  #socket(name: string): Promise<QmpSocket> {
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    const path = this.#sockets.get(name);
    if (path === undefined)
      return Promise.reject(new TidemarkError('vm-unknown', `Hypervisor ${this.name} has no VM ${name}.`));
    const opening = QmpSocket.open(path, this.#clock);
    this.#open.set(name, opening);
    opening.then(
      (socket) => {
        socket.onEvent((event) => this.#heard(name, event));
        void socket.closed.then(() => {
          this.#open.delete(name);
          this.#tell({ vm: name, kind: 'stopped' });
        });
        this.#tell({ vm: name, kind: 'started' });
      },
      () => this.#open.delete(name),
    );
    return opening;
  }

  #keepOpen(): void {
    for (const name of this.#sockets.keys()) this.#socket(name).catch(() => undefined);
    this.#timer = this.#clock.after(lookMs, () => this.#keepOpen());
  }

  #heard(name: string, event: MonitorEvent): void {
    const kind = vmEvents[event.name];
    if (kind !== undefined) this.#tell({ vm: name, kind });
  }

  #tell(event: VmEvent): void {
    for (const watcher of [...this.#watchers]) watcher(event);
  }

  async #describe(name: string): Promise<Vm> {
    const uuidHere = uuidOf(this.#sockets.get(name) ?? '');
    const off = { name, uuid: uuidHere, state: 'off', movedAway: false, disks: [] } as const;
    try {
      const socket = await this.#socket(name);
      const { running } = await query(socket, z.object({ running: z.boolean() }), 'query-status');
      const { UUID } = await query(socket, z.object({ UUID: z.string().max(64) }), 'query-uuid');
      const disks = (await blockDevices(socket)).map(describeDisk);
      const uuid = UUID === zeroUuid ? off.uuid : UUID;
      return { name, uuid, state: running ? 'running' : 'paused', movedAway: false, disks };
    } catch (error) {
      if (isTidemarkError(error, 'hypervisor-unreachable')) return off;
      throw error;
    }
  }
}

/** Its user closes it, the connection stays. */
function shared(socket: QmpSocket): Monitor {
  const over = Promise.withResolvers<string>();
  const stops = new Set<() => void>();
  void socket.closed.then((reason) => over.resolve(reason));
  return {
    closed: over.promise,
    execute: (command, args, timeoutMs) => socket.execute(command, args, timeoutMs),
    onEvent: (listener) => {
      const stop = socket.onEvent(listener);
      stops.add(stop);
      return stop;
    },
    close: () => {
      for (const stop of stops) stop();
      over.resolve('the monitor was closed');
    },
  };
}

function describeDisk(device: BlockDeviceInfo): VmDisk {
  const { inserted, removable } = device;
  return {
    target: targetOf(device),
    sizeBytes: inserted?.image['virtual-size'] ?? 0,
    format: inserted?.drv ?? '',
    source: inserted?.file ?? '',
    refusal: refusalOf(device, removable),
  };
}

function refusalOf({ inserted }: BlockDeviceInfo, removable: boolean): string | undefined {
  if (removable) return 'a removable drive (CD-ROM)';
  if (inserted === undefined) return 'an empty drive';
  if (inserted.ro) return 'read-only';
  if (inserted['node-name'] === '') return 'its node has no name';
  return inserted.encrypted ? 'encrypted by QEMU: use encryption in the guest, or of the journal' : undefined;
}

function ignoreGone(error: unknown): void {
  if (!isTidemarkError(error, 'hypervisor-unreachable')) throw error;
}

/** Stays the same for a monitor's path. */
function uuidOf(path: string): string {
  const hex = createHash('sha256').update(path).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
