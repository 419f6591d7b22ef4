/**
 * Two sites for moves: `web` (wave 2) heeds the power button, `db` (wave 1) never does. Both count on their disks until they end.
 */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentConfigInput } from '../../agent/src/config/schema.js';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { Operation } from '../../agent/src/service/operation-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { writeCountingDisk } from '../support/counting-guest.js';
import { Laboratory } from '../support/laboratory.js';
import { writePowerButtonDisk } from '../support/power-button-guest.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { waitFor } from '../support/wait.js';

const sizeBytes = 16 * 1024 * 1024;
export const vms = ['web', 'db'] as const;
export type VmName = (typeof vms)[number];

export class MoveRig implements AsyncDisposable {
  private constructor(
    readonly here: PrivateLibvirt,
    readonly there: PrivateLibvirt,
    readonly source: AgentHandle,
    readonly target: AgentHandle,
    private readonly lab: Laboratory,
    private readonly owned: AsyncDisposableStack,
  ) {}

  /** The target does not know the source's API yet; see {@link setPeerApi}. */
  static async start(): Promise<MoveRig> {
    const stack = new AsyncDisposableStack();
    try {
      const lab = stack.use(await Laboratory.open());
      const here = stack.use(await PrivateLibvirt.start(lab.processes, join(lab.directory, 'a'), 'libvirt-a'));
      const there = stack.use(await PrivateLibvirt.start(lab.processes, join(lab.directory, 'b'), 'libvirt-b'));
      for (const [index, vm] of vms.entries()) {
        (vm === 'web' ? writePowerButtonDisk : writeCountingDisk)(lab.path(`${vm}.raw`), sizeBytes);
        writeFileSync(lab.path(`${vm}.xml`), domainXml(lab, vm, index));
        await here.virsh.run(['define', lab.path(`${vm}.xml`)]);
        await here.virsh.run(['start', vm]);
      }
      const target = await lab.prepareAgent('target');
      const source = await lab.prepareAgent('source');
      target.configure(targetSettings(there, undefined));
      source.configure(sourceSettings(here, target));
      await target.start();
      await source.start();
      const rig = new MoveRig(here, there, source, target, lab, stack.move());
      await rig.protecting();
      return rig;
    } catch (error) {
      await stack.disposeAsync();
      throw error;
    }
  }

  /** Into the target's configuration, live. */
  async setPeerApi(): Promise<void> {
    this.target.configure(targetSettings(this.there, this.source.addresses.api));
    process.kill(this.target.pid, 'SIGHUP');
    await waitFor('the new configuration', () => this.target.process.log().includes('changed: peers'));
  }

  protecting(): Promise<unknown> {
    const sinceMs = Date.now();
    return waitFor(
      'a new complete checkpoint, all VMs running and attached',
      async () => {
        const { state, newestCheckpoint } = await this.target.client.group('shop');
        const attached = (await this.source.client.group('shop')).vms?.every((vm) => vm.state === 'attached');
        return (
          state === 'protecting' &&
          attached === true &&
          (newestCheckpoint?.sourceTimeMs ?? 0) > sinceMs &&
          newestCheckpoint?.attributes['definitions'] !== undefined
        );
      },
      { timeoutMs: 90_000, everyMs: 100 },
    );
  }

  move(id: string, args: Readonly<Record<string, unknown>> = {}): Promise<Operation> {
    return this.target.client.startOperation(id, { kind: 'move', group: 'shop', arguments: args });
  }

  ended(id: string, agent = this.target): Promise<Operation> {
    return waitFor(
      `the end of ${id}`,
      async () => {
        const operation = await agent.client.operation(id).catch(() => undefined);
        return operation !== undefined && operation.state !== 'running' ? operation : undefined;
      },
      { timeoutMs: 120_000, everyMs: 100 },
    );
  }

  /** Of the source's own disk. */
  counter(vm: VmName): number {
    return readFileSync(this.lab.path(`${vm}.raw`)).readUInt32LE(512);
  }

  async counts(vm: VmName): Promise<void> {
    const before = this.counter(vm);
    await waitFor(`${vm} counts`, () => this.counter(vm) > before + 3, { timeoutMs: 60_000 });
  }

  /** Every byte of the source's disks is in the checkpoint. */
  async differing(checkpoint: string): Promise<string[]> {
    const { client } = this.target;
    const view = await client.openView('shop', { id: 'look', at: { by: 'id', checkpoint }, purpose: 'browse' });
    try {
      const digests = await Promise.all(
        vms.map(async (vm) => {
          const uri = view.disks.find(({ name }) => name === `${vm}-vda`)!.uri;
          return [vm, await digestOf(uri), sha(readFileSync(this.lab.path(`${vm}.raw`)))] as const;
        }),
      );
      return digests.flatMap(([vm, there, here]) => (there === here ? [] : [vm]));
    } finally {
      await client.closeView('shop', 'look', { force: true });
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.owned.disposeAsync();
  }
}

function targetSettings({ uri }: PrivateLibvirt, api: string | undefined): Partial<AgentConfigInput> {
  return {
    peers: [{ name: 'source', ...(api === undefined ? {} : { api }) }],
    hypervisors: [{ name: 'local', kind: 'libvirt', uri }],
    targetGroups: [
      {
        name: 'shop',
        streams: ['source'],
        disks: vms.map((vm) => ({ name: `${vm}-vda`, sizeBytes, stream: 'source' })),
        checkpointIntervalSeconds: 1,
        recovery: { hypervisor: 'local', vms: vms.map((vm) => ({ vm, wave: vm === 'web' ? 2 : 1 })) },
      },
    ],
  };
}

function sourceSettings({ uri }: PrivateLibvirt, target: AgentHandle): Partial<AgentConfigInput> {
  return {
    peers: [{ name: 'target', address: target.addresses.stream }],
    hypervisors: [{ name: 'local', kind: 'libvirt', uri }],
    sourceGroups: [
      {
        name: 'shop',
        targets: [{ peer: 'target' }],
        checkpointIntervalSeconds: 1,
        vms: vms.map((vm) => ({ vm, hypervisor: 'local' })),
      },
    ],
  };
}

function domainXml(lab: Laboratory, vm: VmName, index: number): string {
  return `<domain type='qemu'><name>${vm}</name><uuid>2f9c1d1e-6a77-4f0e-9a51-7be8a4a0c0d${index}</uuid>
    <memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><features><acpi/></features>
    <devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
    <source file='${lab.path(`${vm}.raw`)}'/><target dev='vda' bus='virtio'/></disk>
    <serial type='file'><source path='${lab.path(`${vm}.log`)}'/></serial></devices></domain>`;
}

async function digestOf(uri: string): Promise<string> {
  const client = await NbdClient.open(uri, { clock: nodeClock });
  try {
    const bytes = Buffer.alloc(client.sizeBytes);
    await client.read(bytes, 0);
    return sha(bytes);
  } finally {
    await client.close();
  }
}

function sha(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
