/** One real VM with MariaDB and Redis under a libvirt, protected by an agent, with hooks; a second agent is the target. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { AgentHandle } from './agent-handle.js';
import { guestDisk, guestImage, type GuestImage } from './guest-image.js';
import { Laboratory } from './laboratory.js';
import { repositoryRoot } from './paths.js';
import { PrivateLibvirt } from './private-libvirt.js';
import { createNetwork, groupDisks, network, parseNumbers, startTier, type Tier } from './two-tier.js';
import { waitFor } from './wait.js';

export const sqlGroup = 'sql';
export const sqlHoldSecondsMax = 8;
const operationTimeoutMs = 120_000;

/** No two processes use the same address: the host's network is shared. */
const subnet = `10.78.${(process.pid % 250) + 1}`;
export const sqlAddress = `${subnet}.2`;
const sqlTier: Tier = {
  ...{ name: 'sql', uuid: '5a15a15a-6a77-4f0e-9a51-7be8a4a0c0de', mac: '52:54:00:78:00:02', address: sqlAddress },
  disks: ['root', 'sql', 'redo'],
};

const hooks = {
  holdSecondsMax: sqlHoldSecondsMax,
  vms: [
    {
      vm: 'sql',
      hooks: [
        {
          kind: 'mariadb' as const,
          socket: '/run/mysqld.sock',
          client: '/data/program/mariadb',
          redoBytesMax: 256 * 1024,
        },
        { kind: 'redis' as const, client: '/run/redis-cli' },
        { kind: 'fsfreeze' as const },
      ],
    },
  ],
};
/** While /run/slow is there a pause is not made: MariaDB is held that long. */
export const slowRedisCli = `#!/bin/sh
said=$(cat)
case $said in *'CLIENT PAUSE'*) [ ! -e /run/slow ] || sleep 60 ;; esac
echo "$said" | exec /data/program/redis-cli "$@"
`;

/** What a checkpoint holds. */
export interface SqlInside {
  readonly mariadb: ReadonlySet<number>;
  readonly redis: ReadonlySet<number>;
  /** File systems, of two, that had a journal to replay. */
  readonly journalsReplayed: number;
  readonly redoBytes: number;
  readonly mariadbStartMs: number;
  readonly redisStartMs: number;
  /** The end of Redis' append-only file was no whole command. */
  readonly wasCut: boolean;
}

export class SqlSite implements AsyncDisposable {
  private constructor(
    private readonly owned: AsyncDisposableStack,
    readonly lab: Laboratory,
    readonly image: GuestImage,
    readonly here: PrivateLibvirt,
    readonly source: AgentHandle,
    readonly target: AgentHandle,
  ) {}

  /** The VM boots, and both agents run. */
  static async boot(): Promise<SqlSite> {
    const owned = new AsyncDisposableStack();
    try {
      const lab = owned.use(await Laboratory.open());
      const image = await guestImage(lab.processes);
      const here = owned.use(await PrivateLibvirt.start(lab.processes, join(lab.directory, 'a'), 'libvirt-a'));
      await createNetwork(lab, here.virsh);
      await startTier(lab, here.virsh, image, sqlTier);
      const bridge = /<bridge name='([^']*)'/.exec(await here.virsh.run(['net-dumpxml', network]))?.[1] ?? '';
      await lab.processes.run('ip', ['address', 'replace', `${subnet}.250/24`, 'dev', bridge]);
      const target = await lab.prepareAgent('target');
      const source = await lab.prepareAgent('source');
      target.configure({
        peers: [{ name: 'source', address: source.addresses.stream, api: source.addresses.api }],
        targetGroups: [
          {
            ...{ name: sqlGroup, streams: ['source'], checkpointIntervalSeconds: 1 },
            disks: groupDisks(image, ['sql'], [sqlTier]).map((disk) => ({ ...disk, stream: 'source' })),
          },
        ],
      });
      source.configure({
        peers: [{ name: 'target', address: target.addresses.stream, api: target.addresses.api }],
        hypervisors: [{ name: 'local', kind: 'libvirt', uri: here.uri }],
        sourceGroups: [
          {
            ...{ name: sqlGroup, targets: [{ peer: 'target' }], checkpointIntervalSeconds: 1, hooks },
            vms: [{ vm: 'sql', hypervisor: 'local' }],
          },
        ],
      });
      for (const agent of [source, target]) owned.defer(() => (agent.isRunning ? agent.stop() : undefined));
      await target.start();
      await source.start();
      return new SqlSite(owned, lab, image, here, source, target);
    } catch (error) {
      await owned.disposeAsync();
      throw error;
    }
  }

  /** Until a complete checkpoint made after the call is durable. */
  async waitProtecting(): Promise<void> {
    const sinceMs = Date.now();
    await waitFor(
      'a complete checkpoint',
      async () => {
        const { state, newestCheckpoint: newest } = await this.target.client.group(sqlGroup);
        return state === 'protecting' && newest !== null && newest.sourceTimeMs > sinceMs;
      },
      { timeoutMs: 180_000, everyMs: 200 },
    );
  }

  take(): Promise<Checkpoint> {
    return this.target.client.createCheckpoint(sqlGroup, {});
  }

  /** Both databases start on what the checkpoint has, and MariaDB's table passes its check. */
  async lookInto(id: string, checkpoint: string): Promise<SqlInside> {
    const { lab, image, target } = this;
    const directory = mkdtempSync(lab.path('export-'));
    try {
      const place = join(directory, 'place');
      mkdirSync(place);
      const disks = ['sql-vdb', 'sql-vdc'];
      const wanted = { at: { by: 'id' as const, checkpoint }, format: 'raw' as const, directory, disks };
      await target.client.startOperation(id, { kind: 'export', group: sqlGroup, arguments: wanted });
      const done = await target.client.waitOperation(id, undefined, AbortSignal.timeout(operationTimeoutMs));
      if (done.state !== 'succeeded') throw new Error(`export ${id}: ${JSON.stringify(done.error)}`);
      const text = await lab.processes.run('unshare', [
        ...['--mount', '--pid', '--fork', '--kill-child', '--mount-proc', 'bash'],
        join(repositoryRoot(), 'test', 'support', 'check-sql.sh'),
        ...[place, guestDisk(image, 'root'), ...disks.map((disk) => join(directory, `${disk}.raw`))],
      ]);
      const [mariadb = '', redis = '', facts = ''] = text.split(/^--$/m);
      const [journals, redoBytes, mariadbMs, redisMs, cut] = facts.trim().split(' ').map(Number);
      return {
        ...{ mariadb: new Set(parseNumbers(mariadb)), redis: new Set(parseNumbers(redis)), wasCut: cut === 1 },
        ...{ journalsReplayed: journals!, redoBytes: redoBytes! },
        ...{ mariadbStartMs: mariadbMs!, redisStartMs: redisMs! },
      };
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.owned.disposeAsync();
  }
}
