/** Two agents, of which the source protects disks of a running VM. */
import type { Laboratory } from '../support/laboratory.js';
import type { Pair } from '../support/pair.js';
import { waitFor } from '../support/wait.js';
import { stepBack } from './another-machine.js';
import type { WatchedPair } from './context.js';

export interface VmPairOptions {
  readonly vm: string;
  readonly hypervisorUri: string;
  readonly bufferBytes: number;
  readonly disks: readonly { readonly target: string; readonly sizeBytes: number }[];
}

export type VmPair = WatchedPair & Pick<Pair, 'waitDrained'>;

/** Resolves when the disks are attached and a complete checkpoint of them is durable. The target agent then steps back. */
export async function startVmPair(lab: Laboratory, options: VmPairOptions): Promise<VmPair> {
  const { vm, hypervisorUri, bufferBytes, disks } = options;
  const group = 'shop';
  const target = await lab.startAgent('target', {
    peers: [{ name: 'source' }],
    targetGroups: [
      {
        name: group,
        streams: ['source'],
        disks: disks.map((disk) => ({ name: `${vm}-${disk.target}`, sizeBytes: disk.sizeBytes, stream: 'source' })),
      },
    ],
  });
  const source = await lab.startAgent('source', {
    buffers: { bufferBytes },
    peers: [{ name: 'target', address: target.addresses.stream }],
    hypervisors: [{ name: 'local', kind: 'libvirt', uri: hypervisorUri }],
    sourceGroups: [
      {
        name: group,
        targets: [{ peer: 'target' }],
        vms: [{ vm, hypervisor: 'local', disks: disks.map((disk) => disk.target) }],
      },
    ],
  });
  const alive = (): void => [source, target].forEach((agent) => agent.process.failIfExited());
  const sourceStatus: Pair['sourceStatus'] = () => source.client.group(group);
  const targetStatus: Pair['targetStatus'] = () => target.client.group(group);
  const sinceMs = Date.now();
  await waitFor(
    'the VM is protected',
    async () => {
      alive();
      const { state, newestCheckpoint } = await targetStatus();
      return state === 'protecting' && (newestCheckpoint?.sourceTimeMs ?? 0) > sinceMs;
    },
    { timeoutMs: 180_000, everyMs: 100 },
  );
  stepBack(target);
  return {
    ...{ source, target, group, sourceStatus, targetStatus },
    waitDrained: async (wait) => {
      const given = (await sourceStatus()).links[0]!.sequenceGiven;
      const drained = async (): Promise<boolean> => {
        alive();
        return (await sourceStatus()).links[0]!.sequenceDurable >= given;
      };
      await waitFor('all is durable', drained, { timeoutMs: 120_000, everyMs: 50, ...wait });
    },
  };
}
