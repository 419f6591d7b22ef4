/** The state of every protected group of one agent, as stack outputs. */
import { readFileSync } from 'node:fs';
import * as pulumi from '@pulumi/pulumi';
import { AgentClient, type GroupStatus } from '../../components/index.js';

const config = new pulumi.Config('tidemark');
const file = (name: string): string => readFileSync(config.require(name), 'utf8');
const client = new AgentClient({
  url: config.require('api'),
  certificate: file('certificate'),
  key: file('key'),
  authority: file('authority'),
});

/** What does not change by itself on a quiet stack: RPO and newest checkpoint would make every refresh a change. */
function summary(group: GroupStatus): { role: string; state: string; epoch: number | null; disks: string[] } {
  return {
    role: group.role,
    state: group.state,
    epoch: group.epoch?.epoch ?? null,
    disks: group.disks.map((disk) => disk.name),
  };
}

async function read(): Promise<{ agent: string; groups: Record<string, ReturnType<typeof summary>> }> {
  try {
    const [agent, groups] = await Promise.all([client.agent(), client.groups()]);
    return {
      agent: `${agent.site}/${agent.name}`,
      groups: Object.fromEntries(groups.map((group) => [group.name, summary(group)])),
    };
  } finally {
    client.close();
  }
}

const status = pulumi.output(read());
export const agent = status.agent;
export const groups = status.groups;
