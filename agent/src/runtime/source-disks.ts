/** The disks of a source group that its configuration lists: opened, exported, and changed while the group runs. */
import { InPathExport } from '../capture/in-path-export.js';
import { MirrorExport } from '../capture/mirror-export.js';
import type { SourceDisk, SourceGroup } from '../capture/source-group.js';
import type { SourceDiskConfig } from '../config/schema-groups.js';
import { TidemarkError } from '../core/errors.js';
import type { ExportBackend } from '../nbd/backend.js';
import type { BlockDevice } from '../nbd/block-device.js';
import type { ExportHost } from './exports.js';

export interface SourceDisksOptions {
  readonly group: string;
  readonly exports: ExportHost;
  readonly openDevice: (location: string, access: 'read' | 'write') => Promise<BlockDevice>;
}

interface Open {
  readonly config: SourceDiskConfig;
  readonly sizeBytes: number;
  /** Undefined: a mirror without a source. */
  readonly device: BlockDevice | undefined;
}

export class SourceDisks {
  /** By index in the group; in the order of the configuration until `serve`. */
  private readonly open = new Map<number, Open>();

  constructor(private readonly options: SourceDisksOptions) {}

  /** Opens the disks of a group that is being made; on a failure `close` gives back what was opened. */
  async openAll(configs: readonly SourceDiskConfig[]): Promise<SourceDisk[]> {
    for (const [index, config] of configs.entries()) this.open.set(index, await this.openOne(config));
    return [...this.open.values()].map(sourceDisk);
  }

  /** Exports what is open. */
  serveAll(group: SourceGroup): void {
    for (const [index, open] of this.open) this.serve(group, index, open);
  }

  /** Brings the running group to what the configuration says now: disks added, grown, removed. */
  async change(group: SourceGroup, configs: readonly SourceDiskConfig[]): Promise<void> {
    for (const [index, open] of [...this.open]) {
      const config = configs.find(({ name }) => name === open.config.name);
      if (config === undefined) await this.remove(group, index, open);
      else if ((config.sizeBytes ?? 0) > open.sizeBytes) await this.grow(group, index, open, config);
    }
    const known = new Set([...this.open.values()].map(({ config }) => config.name));
    for (const config of configs) if (!known.has(config.name)) await this.add(group, config);
  }

  async unexport(): Promise<void> {
    await Promise.all(
      [...this.open.values()].map(({ config }) => this.options.exports.remove(this.exportName(config))),
    );
  }

  async close(): Promise<void> {
    for (const { device } of this.open.values()) await device?.close();
    this.open.clear();
  }

  private async add(group: SourceGroup, config: SourceDiskConfig): Promise<void> {
    const open = await this.openOne(config);
    const index = group.addDisk(sourceDisk(open));
    this.open.set(index, open);
    this.serve(group, index, open);
  }

  /** A client sees the size when it connects, so those that are connected are dropped. */
  private async grow(group: SourceGroup, index: number, before: Open, config: SourceDiskConfig): Promise<void> {
    const open = await this.openOne(config);
    await this.options.exports.remove(this.exportName(before.config));
    group.growDisk(index, open.sizeBytes, open.device);
    this.open.set(index, open);
    this.serve(group, index, open);
    await before.device?.close();
  }

  private async remove(group: SourceGroup, index: number, { config, device }: Open): Promise<void> {
    await this.options.exports.remove(this.exportName(config));
    group.removeDisk(index);
    this.open.delete(index);
    await device?.close();
  }

  private serve(group: SourceGroup, index: number, { config, device }: Open): void {
    const description = `${config.kind} capture of ${this.options.group}/${config.name}`;
    this.options.exports.add(this.exportName(config), backendOf(group, index, config, device), description);
  }

  private exportName({ exportName, name }: SourceDiskConfig): string {
    return exportName ?? `${this.options.group}/${name}`;
  }

  private async openOne(config: SourceDiskConfig): Promise<Open> {
    const device = await this.openDevice(config);
    const sizeBytes = config.sizeBytes ?? device?.sizeBytes ?? 0;
    if (device === undefined || device.sizeBytes >= sizeBytes) return { config, sizeBytes, device };
    await device.close();
    const { group } = this.options;
    throw new TidemarkError(
      'config-invalid',
      `Disk ${config.name} of ${group} has ${device.sizeBytes} bytes, ${sizeBytes} are declared.`,
      { path: `sourceGroups.${group}.disks.${config.name}.sizeBytes` },
    );
  }

  private openDevice(config: SourceDiskConfig): Promise<BlockDevice | undefined> {
    const { openDevice } = this.options;
    if (config.kind === 'in-path') return openDevice(config.file ?? config.upstream ?? '', 'write');
    return config.source === undefined ? Promise.resolve(undefined) : openDevice(config.source, 'read');
  }
}

function sourceDisk({ config, sizeBytes, device }: Open): SourceDisk {
  return { name: config.name, sizeBytes, ...(device === undefined ? {} : { reader: device }) };
}

function backendOf(
  group: SourceGroup,
  index: number,
  config: SourceDiskConfig,
  device: BlockDevice | undefined,
): ExportBackend {
  if (config.kind === 'mirror') return new MirrorExport(group, index);
  if (device === undefined) throw new TidemarkError('config-invalid', `In-path disk ${config.name} has no device.`);
  return new InPathExport(group, index, device);
}
