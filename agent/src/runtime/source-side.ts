/** The source groups of an agent: their disks opened and exported, their links, and how the API shows them. */
import { basename } from 'node:path';
import { InPathExport } from '../capture/in-path-export.js';
import { MirrorExport } from '../capture/mirror-export.js';
import { SourceGroup, type SourceDisk } from '../capture/source-group.js';
import type { AgentConfig } from '../config/schema.js';
import type { SourceDiskConfig, SourceGroupConfig } from '../config/schema-groups.js';
import { TidemarkError } from '../core/errors.js';
import type { LinkOptions } from '../link/environment.js';
import type { ExportBackend } from '../nbd/backend.js';
import type { BlockDevice } from '../nbd/block-device.js';
import type { Checkpoint } from '../service/checkpoint-schemas.js';
import type { GroupStatus } from '../service/group-schemas.js';
import type { ExportHost } from './exports.js';
import { sourceStatus } from './source-status.js';

/** Everything of a link but what its group and target decide. */
export type LinkEnvironment = Omit<LinkOptions, 'target' | 'address' | 'directory' | 'bounds'>;

export interface SourceSideOptions {
  readonly agent: string;
  readonly environment: LinkEnvironment;
  readonly exports: ExportHost;
  /** Spools and epoch files of the links lie below it. */
  readonly directory: string;
  readonly bufferBytes: number;
  readonly spoolBytes: number;
  /** Opens a raw file or an NBD URI. */
  readonly openDevice: (location: string, access: 'read' | 'write') => Promise<BlockDevice>;
  /** Stream address of a peer; undefined when the configuration names none. */
  readonly addressOf: (peer: string) => string | undefined;
}

interface Running {
  readonly group: SourceGroup;
  readonly config: SourceGroupConfig;
  readonly devices: readonly BlockDevice[];
  readonly exportNames: readonly string[];
}

/** A source group as the service uses it. */
export interface SourceHandle {
  readonly group: SourceGroup;
  status(): GroupStatus;
  /** What the source knows to be durable: the newest on each link. */
  checkpoints(): Checkpoint[];
  /** Marks now and waits until a target holds it durably. */
  tag(label: string | undefined, timeoutMs: number): Promise<Checkpoint>;
}

const MiB = 1024 * 1024;

export class SourceSide {
  private readonly running = new Map<string, Running>();

  constructor(private readonly options: SourceSideOptions) {}

  list(): SourceHandle[] {
    return [...this.running.values()].map((running) => this.handle(running));
  }

  find(name: string): SourceHandle | undefined {
    const running = this.running.get(name);
    return running === undefined ? undefined : this.handle(running);
  }

  async start(config: AgentConfig): Promise<void> {
    const links = config.sourceGroups.reduce((sum, group) => sum + group.targets.length, 0);
    for (const group of config.sourceGroups) if (!this.running.has(group.name)) await this.open(group, Math.max(1, links));
  }

  /** The slabs of the agent run out. */
  relieve(): void {
    for (const { group } of this.running.values()) group.relieve();
  }

  /** Waits until everything captured is durable at the targets, then ends the links; the exports are closed before. */
  async drain(signal: AbortSignal): Promise<void> {
    const all = [...this.running.values()];
    for (const { exportNames } of all) for (const name of exportNames) await this.options.exports.remove(name);
    await Promise.all(all.flatMap(({ group }) => group.links.map((link) => link.drained(signal).catch(() => undefined))));
    for (const { group, devices } of all) {
      await group.close();
      for (const device of devices) await device.close();
    }
    this.running.clear();
  }

  private async open(config: SourceGroupConfig, linkCount: number): Promise<void> {
    const { options } = this;
    const { clock, random, events } = options.environment;
    const devices: BlockDevice[] = [];
    const disks: SourceDisk[] = [];
    const opened: (BlockDevice | undefined)[] = [];
    for (const [index, disk] of config.disks.entries()) {
      const device = await this.openDisk(disk);
      const sizeBytes = disk.sizeBytes ?? device?.sizeBytes ?? 0;
      if (device !== undefined && device.sizeBytes < sizeBytes) {
        throw new TidemarkError('config-invalid', `Disk ${disk.name} has ${device.sizeBytes} bytes, ${sizeBytes} are declared.`, {
          path: `sourceGroups.${config.name}.disks[${index}].sizeBytes`,
        });
      }
      if (device !== undefined) devices.push(device);
      opened.push(device);
      disks.push({ name: disk.name, sizeBytes, ...(device === undefined ? {} : { reader: device }) });
    }
    const checkpointIntervalMs = config.checkpointIntervalSeconds * 1000;
    const group = new SourceGroup({ name: config.name, agent: options.agent, disks, clock, random, events, checkpointIntervalMs });
    const exportNames = config.disks.map((disk, index) => {
      const name = disk.exportName ?? `${config.name}/${disk.name}`;
      options.exports.add(name, backendOf(group, index, disk, opened[index]), `${disk.kind} capture of ${config.name}/${disk.name}`);
      return name;
    });
    this.running.set(config.name, { group, config, devices, exportNames });
    // A share of the memory for each link: together they stay within the agent's buffer.
    const bufferBytes = Math.floor(options.bufferBytes / linkCount / 1.25);
    const spoolBytes = Math.floor(options.spoolBytes / linkCount);
    for (const target of config.targets) {
      const address = target.address ?? options.addressOf(target.peer);
      if (address === undefined) throw new TidemarkError('config-invalid', `Peer ${target.peer} has no address.`, { path: 'peers' });
      group.addLink({
        ...options.environment,
        target: target.peer,
        address,
        directory: `${options.directory}/${config.name}/${basename(target.peer)}`,
        bounds: { bufferBytes, spoolBytes, spoolFileBytes: Math.max(MiB, Math.min(64 * MiB, Math.ceil(spoolBytes / 4))) },
      });
    }
  }

  private openDisk(disk: SourceDiskConfig): Promise<BlockDevice | undefined> {
    const { openDevice } = this.options;
    if (disk.kind === 'in-path') return openDevice(disk.file ?? disk.upstream ?? '', 'write');
    return disk.source === undefined ? Promise.resolve(undefined) : openDevice(disk.source, 'read');
  }

  private handle({ group, config }: Running): SourceHandle {
    const { exports, environment } = this.options;
    return {
      group,
      status: () => sourceStatus(group, config, exports),
      checkpoints: () =>
        group.status.links.flatMap((link) =>
          link.durableCheckpointId === undefined || link.durableCheckpointMs === undefined
            ? []
            : [sourceCheckpoint(group, { id: link.durableCheckpointId, sourceTimeMs: link.durableCheckpointMs, disksMissing: [] })],
        ),
      tag: async (label, timeoutMs) => {
        const results = group.tag(label ?? 'tagged');
        const given = results.find(({ mark }) => mark !== undefined);
        const link = group.links.find(({ target }) => target === given?.target);
        if (given?.mark === undefined || link === undefined) throw new TidemarkError('illegal-state', `${group.name} has no link.`);
        const abort = new AbortController();
        const timer = environment.clock.after(timeoutMs, () =>
          abort.abort(new TidemarkError('peer-unreachable', `The checkpoint did not become durable in ${timeoutMs / 1000} s.`)),
        );
        try {
          await link.drained(abort.signal);
        } finally {
          timer.cancel();
        }
        return { ...sourceCheckpoint(group, given.mark), kind: 'tagged', label: label ?? 'tagged' };
      },
    };
  }
}

function backendOf(group: SourceGroup, index: number, disk: SourceDiskConfig, device: BlockDevice | undefined): ExportBackend {
  if (disk.kind === 'mirror') return new MirrorExport(group, index);
  if (device === undefined) throw new TidemarkError('config-invalid', `In-path disk ${disk.name} has no device.`);
  return new InPathExport(group, index, device);
}

function sourceCheckpoint(
  group: SourceGroup,
  mark: { readonly id: string; readonly sourceTimeMs: number; readonly disksMissing: readonly string[] },
): Checkpoint {
  return {
    id: mark.id,
    kind: 'crash',
    label: null,
    sourceTimeMs: mark.sourceTimeMs,
    epoch: group.status.links[0]?.epoch ?? 0,
    diskCount: group.disks.length,
    disksPresent: group.disks.length - mark.disksMissing.length,
    complete: mark.disksMissing.length === 0,
    pins: [],
    attributes: {},
  };
}
