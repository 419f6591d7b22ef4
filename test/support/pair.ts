/** The usual set-up: a source agent with mirror exports, a target agent with the journal, one group. */
import type { SourceDiskConfig } from '../../agent/src/config/schema-groups.js';
import type { TargetGroupConfig } from '../../agent/src/service/group-spec.js';
import type { GroupStatus } from '../../agent/src/service/group-schemas.js';
import type { AgentHandle, AgentSettings } from './agent-handle.js';
import type { Laboratory } from './laboratory.js';
import type { LinkProxy } from './link-proxy.js';
import { waitFor, type WaitOptions } from './wait.js';

export interface PairDisk {
  readonly name: string;
  readonly sizeBytes: number;
  /** `mirror` (default): `file` is where a sync reads. `in-path`: `file` is served. */
  readonly kind?: 'mirror' | 'in-path';
  readonly file: string;
}

export interface PairOptions {
  readonly disks: readonly PairDisk[];
  /** Default `shop`. */
  readonly group?: string;
  readonly checkpointIntervalSeconds?: number;
  readonly history?: Partial<TargetGroupConfig['history']>;
  /** Of the target group: journal, replica and scratch encrypted at rest. */
  readonly encryptionKeyFile?: string;
  readonly sourceSettings?: AgentSettings;
  readonly targetSettings?: AgentSettings;
  /** Replicate through a proxy that can be shaped and cut. Default false. */
  readonly linkProxy?: boolean;
  /** Added to the agents' names, for several pairs in a laboratory. */
  readonly suffix?: string;
}

export interface Pair {
  readonly source: AgentHandle;
  readonly target: AgentHandle;
  readonly group: string;
  readonly link: LinkProxy | undefined;
  sourceStatus(): Promise<GroupStatus>;
  targetStatus(): Promise<GroupStatus>;
  /** NBD URI of the capture export. */
  exportUri(disk: string): Promise<string>;
  /** The first sync is done and a complete checkpoint durable. */
  waitProtecting(options?: WaitOptions): Promise<GroupStatus>;
  /** All that was captured before the call is durable at the target. */
  waitDrained(options?: WaitOptions): Promise<void>;
  stop(): Promise<void>;
}

export async function startPair(lab: Laboratory, options: PairOptions): Promise<Pair> {
  const group = options.group ?? 'shop';
  const checkpointIntervalSeconds = options.checkpointIntervalSeconds ?? 5;
  const suffix = options.suffix ?? '';
  const sourceName = `source${suffix}`;
  const targetName = `target${suffix}`;

  const target = await lab.startAgent(targetName, {
    ...options.targetSettings,
    peers: [{ name: sourceName }],
    targetGroups: [
      {
        name: group,
        streams: [sourceName],
        disks: options.disks.map(({ name, sizeBytes }) => ({ name, sizeBytes, stream: sourceName })),
        checkpointIntervalSeconds,
        ...(options.history === undefined ? {} : { history: options.history }),
        ...(options.encryptionKeyFile === undefined ? {} : { encryptionKeyFile: options.encryptionKeyFile }),
      },
    ],
  });
  const link = options.linkProxy === true ? await lab.startLink(`link${suffix}`, target.addresses.stream) : undefined;
  const source = await lab.startAgent(sourceName, {
    ...options.sourceSettings,
    peers: [{ name: targetName, address: link?.address ?? target.addresses.stream }],
    sourceGroups: [
      { name: group, targets: [{ peer: targetName }], checkpointIntervalSeconds, disks: options.disks.map(sourceDisk) },
    ],
  });

  const sourceStatus = (): Promise<GroupStatus> => source.client.group(group);
  const targetStatus = (): Promise<GroupStatus> => target.client.group(group);
  return {
    source,
    target,
    group,
    link,
    sourceStatus,
    targetStatus,
    exportUri: async (disk) => {
      const uri = (await sourceStatus()).disks.find(({ name }) => name === disk)?.exportUri;
      if (uri === null || uri === undefined) throw new Error(`disk ${disk} has no export at ${sourceName}`);
      return uri;
    },
    waitProtecting: (wait) =>
      waitFor(
        `group ${group} protecting`,
        async () => {
          for (const agent of [source, target]) agent.process.failIfExited();
          const status = await targetStatus();
          return status.state === 'protecting' && status.newestCheckpoint !== null ? status : undefined;
        },
        { timeoutMs: 120_000, everyMs: 50, ...wait },
      ),
    waitDrained: async (wait) => {
      const given = (await sourceStatus()).links[0]!.sequenceGiven;
      const drained = async (): Promise<boolean> => {
        for (const agent of [source, target]) agent.process.failIfExited();
        return (await sourceStatus()).links[0]!.sequenceDurable >= given;
      };
      await waitFor(`group ${group} drained`, drained, { timeoutMs: 120_000, everyMs: 50, ...wait });
    },
    stop: async () => {
      await source.stop();
      await target.stop();
    },
  };
}

function sourceDisk({ name, sizeBytes, kind = 'mirror', file }: PairDisk): SourceDiskConfig {
  return kind === 'mirror'
    ? { kind, name, sizeBytes, source: file, exportName: undefined }
    : { kind, name, sizeBytes, file, upstream: undefined, exportName: undefined };
}
