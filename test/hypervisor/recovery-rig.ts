/** A target agent with a libvirt of its own, and a group of one VM without an operating system, protected by a library. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SourceGroup } from '../../agent/src/capture/source-group.js';
import { issueInto } from '../../agent/src/pki/directory.js';
import type { Operation, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { countingDefinition, definitionBlob, writeCountingDisk } from '../support/counting-guest.js';
import { Laboratory } from '../support/laboratory.js';
import { startLibrarySource } from '../support/library-source.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
export const vmUuid = '2f9c1d1e-6a77-4f0e-9a51-7be8a4a0c0de';

export interface RecoveryRig extends AsyncDisposable {
  readonly lab: Laboratory;
  readonly libvirt: PrivateLibvirt;
  readonly target: AgentHandle;
  readonly source: SourceGroup;
  /** Starts the operation and waits for its end. */
  run(id: string, request: Omit<OperationRequest, 'group'>): Promise<Operation>;
}

export interface RigOptions {
  readonly recovery?: Readonly<Record<string, unknown>>;
  /** Properties of the one VM in `recovery.vms`. */
  readonly vm?: Readonly<Record<string, unknown>>;
  /** Of the target agent. */
  readonly env?: Readonly<Record<string, string>>;
  /** Its guest writes to both disks, and its serial log is never cut. Default false. */
  readonly countOnBoth?: boolean;
}

export async function startRecoveryRig({
  recovery = {},
  vm = {},
  env = {},
  countOnBoth = false,
}: RigOptions = {}): Promise<RecoveryRig> {
  const stack = new AsyncDisposableStack();
  try {
    const lab = stack.use(await Laboratory.open());
    const libvirt = stack.use(await PrivateLibvirt.start(lab.processes, join(lab.directory, 'v')));
    await libvirt.virsh.run(['net-create', productionNetwork(lab)]);
    await issueInto(lab.pkiDirectory, 'source');
    const disks = ['count-vda', 'count-vdb'].map((name, index) => ({ name, sizeBytes: (16 + 16 * index) * MiB }));
    const target = await lab.startAgent('target', {
      env,
      peers: [{ name: 'source' }],
      hypervisors: [{ name: 'local', kind: 'libvirt', uri: libvirt.uri }],
      targetGroups: [
        {
          name: 'shop',
          streams: ['source'],
          disks: disks.map((disk) => ({ ...disk, stream: 'source' })),
          checkpointIntervalSeconds: 1,
          recovery: { hypervisor: 'local', vms: [{ vm: 'count', ...vm }], ...recovery },
        },
      ],
    });
    const files = disks.map((disk, index) => {
      const file = lab.path('source-disks', `${disk.name}.raw`);
      writeCountingDisk(file, disk.sizeBytes, 1000 * (index + 1), { toBoth: countOnBoth });
      return { ...disk, file };
    });
    const source = await startLibrarySource(lab, { agent: 'source', group: 'shop', disks: files, target });
    stack.defer(() => source.close());
    const definition = countingDefinition({
      ...{ name: 'count', uuid: vmUuid, disks: disks.map(({ name }) => name) },
      countOnAll: countOnBoth,
    });
    source.setDefinition('count', definitionBlob(definition));
    await waitFor('a complete checkpoint that names the definition', async () => {
      const { newestCheckpoint } = await target.client.group('shop');
      return newestCheckpoint?.attributes['definitions'] !== undefined;
    });
    const owned = stack.move();
    return {
      ...{ lab, libvirt, target, source },
      run: async (id, request) => {
        await target.client.startOperation(id, { ...request, group: 'shop' } as OperationRequest);
        return target.client.waitOperation(id, () => undefined, AbortSignal.timeout(120_000));
      },
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** Stands for the network of the live VMs: a bridge of its own. */
function productionNetwork(lab: Laboratory): string {
  const file = lab.path('production.xml');
  writeFileSync(file, "<network><name>production</name><bridge stp='off' delay='0'/></network>");
  return file;
}
