/** The hooked sites with an agent more at the source: one protects the database, the other the client, in one group. */
import { readFileSync, writeFileSync } from 'node:fs';
import type { AgentHandle } from './agent-handle.js';
import { hooks } from './hooked-sites.js';
import { groupDisks } from './two-tier.js';
import type { TwoTierSites } from './two-tier-sites.js';
import { waitFor } from './wait.js';

export const jointGroup = 'joint';

interface File {
  peers: object[];
  sourceGroups?: object[];
  targetGroups?: object[];
}

/** The agents are started anew; resolves with the second one when the new group has a complete checkpoint. */
export async function splitSites(sites: TwoTierSites): Promise<AgentHandle> {
  const { lab, image, here, source, target, link } = sites;
  const second = await lab.prepareAgent('second');
  const change = ({ configFile }: AgentHandle, to: (file: File) => Partial<File>): void => {
    const file = JSON.parse(readFileSync(configFile, 'utf8')) as File;
    writeFileSync(configFile, JSON.stringify({ ...file, ...to(file) }));
  };
  const groupOf = (vm: string): object => ({
    ...{ name: jointGroup, targets: [{ peer: 'target' }], vms: [{ vm, hypervisor: 'local' }] },
    hooks: hooks({ drained: true, vms: [vm] }),
  });
  second.configure({
    peers: [{ name: 'target', address: link.address, api: target.addresses.api }],
    hypervisors: [{ name: 'local', kind: 'libvirt', uri: here.uri }],
  });
  change(second, () => ({ sourceGroups: [groupOf('client')] }));
  change(source, () => ({ sourceGroups: [groupOf('db')] }));
  change(target, ({ peers, targetGroups = [] }) => ({
    peers: [...peers, { name: 'second', address: second.addresses.stream, api: second.addresses.api }],
    targetGroups: [
      ...targetGroups,
      {
        name: jointGroup,
        streams: ['source', 'second'],
        disks: [
          ...groupDisks(image, ['db']).map((disk) => ({ ...disk, stream: 'source' })),
          ...groupDisks(image, ['client']).map((disk) => ({ ...disk, stream: 'second' })),
        ],
        checkpointIntervalSeconds: 1,
        // Two agents, two guests and their load are on this machine: a turn may take long.
        holdMsMax: 1000,
      },
    ],
  }));
  for (const agent of [source, target]) await agent.stop();
  for (const agent of [target, source, second]) await agent.start();
  const complete = async (): Promise<boolean> =>
    (await target.client.group(jointGroup)).newestCheckpoint?.complete === true;
  try {
    await waitFor('a complete checkpoint over both agents', complete, { timeoutMs: 120_000, everyMs: 200 });
  } catch (cause) {
    const all = await Promise.all([target, source, second].map(({ client }) => client.group(jointGroup)));
    throw new Error(JSON.stringify(all.map(({ state, disks, vms, links }) => ({ state, disks, vms, links }))), {
      cause,
    });
  }
  return second;
}
