/** Two agents and a VM without a guest: the source agent attaches the VM's disks by itself. */
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { GroupStatus } from '../../agent/src/service/group-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { GuestlessQemu, type GuestlessDisk } from '../support/guestless-qemu.js';
import { Laboratory } from '../support/laboratory.js';
import { waitFor } from '../support/wait.js';

export const MiB = 1024 * 1024;
export const group = 'erp';

export interface RigDisk extends GuestlessDisk {
  readonly sizeBytes: number;
}

export class AttachRig implements AsyncDisposable {
  private constructor(
    readonly lab: Laboratory,
    readonly disks: RigDisk[],
    readonly source: AgentHandle,
    readonly target: AgentHandle,
    public qemu: GuestlessQemu,
  ) {}

  /** The files exist; a VM `db` with them runs, and is attached when it resolves. */
  static async start(disks: (lab: Laboratory) => Promise<readonly RigDisk[]>): Promise<AttachRig> {
    const lab = await Laboratory.open();
    try {
      const list = await disks(lab);
      const qemu = await GuestlessQemu.start(lab.processes, lab.directory, 'db', list);
      const target = await lab.startAgent('target', {
        peers: [{ name: 'source' }],
        targetGroups: [
          {
            name: group,
            streams: ['source'],
            disks: list.map(({ id, sizeBytes }) => ({ name: `db-${id}`, sizeBytes, stream: 'source' })),
            checkpointIntervalSeconds: 1,
          },
        ],
      });
      const source = await lab.startAgent('source', {
        peers: [{ name: 'target', address: target.addresses.stream }],
        hypervisors: [{ name: 'lab', kind: 'qmp', monitors: [{ vm: 'db', socket: qemu.monitorSocket }] }],
        sourceGroups: [
          {
            name: group,
            targets: [{ peer: 'target' }],
            checkpointIntervalSeconds: 1,
            vms: [{ vm: 'db', hypervisor: 'lab' }],
          },
        ],
      });
      const rig = new AttachRig(lab, [...list], source, target, qemu);
      await rig.waitProtected();
      return rig;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  status(): Promise<GroupStatus> {
    return this.source.client.group(group);
  }

  /** Attached, and synced: a complete checkpoint that is newer than the call is durable. */
  async waitProtected(): Promise<GroupStatus> {
    const sinceMs = Date.now();
    return waitFor(
      'the group is protected',
      async () => {
        for (const agent of [this.source, this.target]) agent.process.failIfExited();
        const status = await this.status();
        const there = await this.target.client.group(group);
        if (status.state !== 'protecting' || status.syncs.length > 0) return undefined;
        return (there.newestCheckpoint?.sourceTimeMs ?? 0) > sinceMs ? status : undefined;
      },
      { timeoutMs: 60_000, everyMs: 50 },
    );
  }

  /** A restart of the source agent would read only what changed. */
  async waitReturnsByBitmap(): Promise<void> {
    const proven = async (): Promise<boolean | undefined> =>
      (await this.status()).vms?.every(({ disks }) => disks.every(({ returnsBy }) => returnsBy === 'bitmap'));
    await waitFor('the bitmaps are proven', proven);
  }

  /** Jobs, nodes and exports of the agent in QEMU. Bitmaps may stay. */
  async traces(): Promise<string[]> {
    const { monitor } = this.qemu;
    const jobs = (await monitor.execute('query-block-jobs')) as { device: string }[];
    const nodes = (await monitor.execute('query-named-block-nodes', { flat: true })) as { 'node-name': string }[];
    const exports = (await monitor.execute('query-block-exports')) as { id: string }[];
    const names = [...jobs.map((job) => job.device), ...nodes.map((node) => node['node-name'])];
    return [...names, ...exports.map(({ id }) => id)].filter((name) => name.startsWith('tidemark-'));
  }

  /** Every disk of a checkpoint made now is byte for byte what the VM's disk holds. */
  async expectEqual(): Promise<void> {
    const { client } = this.target;
    const { id } = await this.source.client.createCheckpoint(group, { label: 'compare' });
    const view = await client.openView(group, {
      id: `view-${id}`,
      at: { by: 'id', checkpoint: id },
      purpose: 'browse',
    });
    try {
      for (const disk of this.disks) {
        const uri = view.disks.find(({ name }) => name === `db-${disk.id}`)!.uri;
        const [there, here] = [await digest(uri), await this.digestOfVm(disk)];
        if (there !== here) throw new Error(`disk ${disk.id} differs at the target`);
      }
    } finally {
      await client.closeView(group, view.id, { force: true });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.qemu.end();
    await this.lab.close();
  }

  /** Through an export of QEMU itself, whatever the format is. */
  private async digestOfVm({ id }: RigDisk): Promise<string> {
    const socket = this.lab.path(`look-${id}.sock`);
    const { monitor } = this.qemu;
    const started = await monitor
      .execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
      .then(() => socket)
      .catch(() => {
        // The agent's: a QEMU has one server.
        const names = readdirSync(`${this.source.directory}/nbd`);
        return `${this.source.directory}/nbd/${names.find((name) => name.startsWith('vm-'))!}`;
      });
    const exportId = `look-${id}`;
    await monitor.execute('block-export-add', { type: 'nbd', id: exportId, name: exportId, 'node-name': `node-${id}` });
    try {
      return await digest(`nbd+unix:///${exportId}?socket=${started}`);
    } finally {
      await monitor.execute('block-export-del', { id: exportId, mode: 'hard' });
    }
  }
}

async function digest(uri: string): Promise<string> {
  const client = await NbdClient.open(uri, { clock: nodeClock });
  try {
    const hash = createHash('sha256');
    const piece = Buffer.alloc(4 * MiB);
    for (let at = 0; at < client.sizeBytes; at += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, client.sizeBytes - at));
      await client.read(part, at);
      hash.update(part);
    }
    return hash.digest('hex');
  } finally {
    await client.close();
  }
}
