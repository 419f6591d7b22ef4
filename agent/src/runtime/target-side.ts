/** The target groups of an agent: found in the data directory, declared, adopted; their views exported over NBD. */
import { TidemarkError, isTidemarkError } from '../core/errors.js';
import type { Clock } from '../core/clock.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { Connection } from '../core/transport.js';
import type { TargetGroupSpec } from '../service/group-spec.js';
import { TargetGroup } from '../target/group.js';
import { TargetSession } from '../target/session.js';
import type { ViewListener } from '../target/views.js';
import type { ExportHost } from './exports.js';
import { settingsOf } from './target-settings.js';

export interface TargetSideOptions {
  readonly storage: Storage;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
  readonly exports: ExportHost;
  /** Holds one directory for each group. */
  readonly directory: string;
  /** Reads 32 bytes from a key file of 64 hexadecimal digits; throws `encryption-key`. */
  readonly readKey: (file: string) => Promise<Uint8Array>;
}

export class TargetSide {
  private readonly groups = new Map<string, TargetGroup>();
  private readonly changes = new Mutex();

  constructor(private readonly options: TargetSideOptions) {}

  list(): TargetGroup[] {
    return [...this.groups.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  find(name: string): TargetGroup | undefined {
    return this.groups.get(name);
  }

  get(name: string): TargetGroup {
    const group = this.groups.get(name);
    if (group === undefined) throw new TidemarkError('group-unknown', `This agent has no target group ${name}.`);
    return group;
  }

  accept(connection: Connection): void {
    new TargetSession(connection, this.options.clock, (name) => this.get(name));
  }

  /** Opens every group that the directory holds; a name whose key is missing or whose journal is damaged is reported. */
  async open(keyFiles: ReadonlyMap<string, string>): Promise<void> {
    const { storage, directory, events } = this.options;
    await storage.makeDirectory(directory);
    for (const name of await storage.list(directory)) {
      if (name.startsWith('.')) continue;
      try {
        await this.start(name, keyFiles.get(name));
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        events.emit('group-not-opened', { group: name, code: error.code, error: error.message });
      }
    }
  }

  /** Creates the group, or changes the settings of one that has the same disks and streams. */
  declare(name: string, spec: TargetGroupSpec, owner: string | null): Promise<TargetGroup> {
    return this.changes.run(async () => {
      const known = this.groups.get(name);
      if (known !== undefined) {
        await this.change(known, spec, owner);
        return known;
      }
      const options = await this.groupOptions(name, spec.encryptionKeyFile);
      const group = await TargetGroup.create(options, {
        name,
        streams: spec.streams,
        disks: spec.disks,
        settings: settingsOf(spec, { owner, policyRevision: 1 }),
      });
      this.groups.set(name, group);
      this.options.events.emit('group-declared', { group: name });
      return group;
    });
  }

  /** Stops the group and sets its directory aside as retired; nothing is deleted here. */
  retire(name: string): Promise<void> {
    return this.changes.run(async () => {
      const group = this.groups.get(name);
      if (group === undefined) return;
      const live = group.views.list().filter(({ record }) => record.purpose === 'production');
      if (live.length > 0 || group.context.manifest.state.state === 'committing') {
        throw new TidemarkError('illegal-state', `Group ${name} runs a live view; commit or roll back first.`);
      }
      this.groups.delete(name);
      await group.close();
      const { storage, directory, clock } = this.options;
      const retired = `${directory}/.retired`;
      await storage.makeDirectory(retired);
      await storage.rename(`${directory}/${name}`, `${retired}/${name}-${Math.round(clock.wallMs())}`);
      await storage.syncDirectory(directory);
      await storage.syncDirectory(retired);
      this.options.events.emit('group-retired', { group: name });
    });
  }

  /** Takes the group directory of a dead appliance over: moved below our own, opened as it is. */
  adopt(name: string, from: string, keyFile: string | undefined): Promise<TargetGroup> {
    return this.changes.run(async () => {
      const { storage, directory } = this.options;
      if (this.groups.has(name)) throw new TidemarkError('group-exists', `This agent has a group ${name} already.`);
      if (!(await storage.exists(`${from}/manifest-current`))) {
        throw new TidemarkError('storage-not-found', `${from} is not the directory of a group.`, { path: from });
      }
      await storage.rename(from, `${directory}/${name}`);
      await storage.syncDirectory(directory);
      const group = await this.start(name, keyFile);
      this.options.events.emit('group-adopted', { group: name, from });
      return group;
    });
  }

  async close(): Promise<void> {
    for (const group of this.groups.values()) await group.close();
    this.groups.clear();
  }

  private async start(name: string, keyFile: string | undefined): Promise<TargetGroup> {
    const group = await TargetGroup.open(await this.groupOptions(name, keyFile));
    if (group.name !== name) {
      await group.close();
      throw new TidemarkError('illegal-state', `The directory ${name} holds the group ${group.name}.`, { path: name });
    }
    this.groups.set(name, group);
    return group;
  }

  private async change(group: TargetGroup, spec: TargetGroupSpec, owner: string | null): Promise<void> {
    const { state } = group.context.manifest;
    const { owner: knownOwner, policyRevision } = group.context.settings;
    if (owner !== null && knownOwner !== null && owner !== knownOwner) {
      throw new TidemarkError('group-exists', `Group ${group.name} belongs to ${knownOwner}.`, { path: 'owner' });
    }
    const disks = [...state.disks.values()].map(({ name, sizeBytes, stream }) => ({
      name,
      sizeBytes,
      stream: state.streams.get(stream),
    }));
    const declared = spec.disks.map(({ name, sizeBytes, stream }) => ({ name, sizeBytes, stream }));
    if (
      JSON.stringify(disks) !== JSON.stringify(declared) ||
      JSON.stringify([...state.streams.values()]) !== JSON.stringify(spec.streams)
    ) {
      throw new TidemarkError('group-exists', `Group ${group.name} exists with other disks or streams.`, {
        path: 'disks',
      });
    }
    const settings = settingsOf(spec, { owner: owner ?? knownOwner, policyRevision });
    if (JSON.stringify(settings) === JSON.stringify(group.context.settings)) return;
    await group.changeSettings({ ...settings, policyRevision: policyRevision + 1 });
  }

  private async groupOptions(
    name: string,
    keyFile: string | undefined,
  ): Promise<Parameters<typeof TargetGroup.open>[0]> {
    const { storage, clock, random, events, directory, readKey } = this.options;
    const key = keyFile === undefined ? undefined : await readKey(keyFile);
    return { storage, clock, random, events, directory: `${directory}/${name}`, key, views: this.viewListener(name) };
  }

  private viewListener(group: string): ViewListener {
    const { exports } = this.options;
    return {
      opened: (open) => {
        for (const [name, backend] of open.disks) {
          exports.add(viewExportName(group, open.record.id, name), backend, `${group} at ${open.checkpoint.id}`);
        }
      },
      closing: async (open) => {
        for (const name of open.disks.keys()) await exports.remove(viewExportName(group, open.record.id, name));
      },
      clientCount: (open) => {
        const names = [...open.disks.keys()];
        return names.reduce((sum, name) => sum + exports.clientCount(viewExportName(group, open.record.id, name)), 0);
      },
    };
  }
}

/** Export name of one disk of a view. */
export function viewExportName(group: string, view: string, disk: string): string {
  return `${group}/${view}/${disk}`;
}
