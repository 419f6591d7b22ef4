/** A source without an agent around it: a SourceGroup of this process, its disks raw files, sending to a real agent. */
import { SourceGroup } from '../../agent/src/capture/source-group.js';
import { FileBlockDevice } from '../../agent/src/nbd/file-block-device.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { nodeRandom } from '../../agent/src/platform/node-random.js';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import { TlsDialer } from '../../agent/src/platform/tls-dialer.js';
import { turnScheduler } from '../../agent/src/runtime/machine.js';
import type { AgentHandle } from './agent-handle.js';
import type { Laboratory } from './laboratory.js';

export interface LibrarySourceOptions {
  /** Name in the certificate `NAME.crt` of the laboratory. */
  readonly agent: string;
  readonly group: string;
  readonly disks: readonly { readonly name: string; readonly sizeBytes: number; readonly file: string }[];
  readonly target: AgentHandle;
}

export async function startLibrarySource(lab: Laboratory, options: LibrarySourceOptions): Promise<SourceGroup> {
  const { agent, group: name, target } = options;
  const disks = await Promise.all(
    options.disks.map(async ({ name: disk, sizeBytes, file }) => ({
      name: disk,
      sizeBytes,
      reader: await FileBlockDevice.open(file, { readOnly: true }),
    })),
  );
  const shared = { clock: nodeClock, random: nodeRandom, events: { emit: () => undefined } };
  const group = new SourceGroup({ ...shared, name, agent, disks, checkpointIntervalMs: 1000 });
  group.addLink({
    ...shared,
    target: target.name,
    address: target.addresses.stream,
    directory: lab.path(`${agent}-link`, target.name),
    storage: new NodeStorage(),
    dialer: new TlsDialer({ cert: lab.pem(`${agent}.crt`), key: lab.pem(`${agent}.key`), ca: lab.pem('ca.crt') }),
    scheduler: turnScheduler,
    compressor: { compress: (raw) => raw },
    cpuIdleShare: () => 0,
    software: 'test',
  });
  return group;
}
