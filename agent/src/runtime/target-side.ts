/** The target groups of an agent: found in the data directory, declared, adopted; their views exported over NBD. */
import { TidemarkError, isTidemarkError } from '../core/errors.js';
import type { Clock, Timer } from '../core/clock.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { Connection } from '../core/transport.js';
import { recoverGroup } from '../recovery/group-recovery.js';
import type { RecoveryEnvironment } from '../recovery/room.js';
import type {
  GroupPolicy,
  RestoreGroup,
  RetiredGroup,
  TargetGroupConfig,
  TargetGroupSpec,
} from '../service/group-spec.js';
import { TargetGroup, type GroupDeclaration } from '../target/group.js';
import type { Reversal } from '../target/reversal.js';
import { TargetSession } from '../target/session.js';
import type { SourcePeers } from '../target/source-peers.js';
import type { ViewListener } from '../target/views.js';
import { checkSeed } from './check-seed.js';
import { adoptDirectory, wasAdopted } from './adopt-directory.js';
import { viewExportName, type ExportHost } from './exports.js';
import { groupPlans } from './group-plans.js';
import type { KeyFiles } from './key-files.js';
import { readKeyFile } from './key-source.js';
import { RetiredGroups } from './retired-groups.js';
import { settingsOf, specOf } from './target-settings.js';

export interface TargetSideOptions {
  readonly storage: Storage;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
  readonly exports: ExportHost;
  /** Holds one directory for each group. */
  readonly directory: string;
  readonly keys: KeyFiles;
  /** The source agents' control APIs. */
  readonly sources: SourcePeers;
  readonly reversal: Reversal;
  /** How VMs come back. */
  readonly recovery: RecoveryEnvironment;
  /** Remakes the group's rows in the catalogue. */
  readonly rebuildCatalogue: (group: TargetGroup) => Promise<number>;
}

/** Who declares a group; null: nobody in particular. `previousOwner` hands it over. */
export interface Ownership {
  readonly owner: string | null;
  readonly previousOwner: string | null;
}

const nobody: Ownership = { owner: null, previousOwner: null };
/** From one attempt to open a group that could not be opened to the next; the second when trying again hardly helps. */
const reopenMs = 5000;
const reopenDamagedMs = 60_000;
const dayMs = 86_400_000;

export class TargetSide {
  private readonly groups = new Map<string, TargetGroup>();
  private readonly changes = new Mutex();
  private readonly failures = new Map<string, string>();
  private readonly retries = new Map<string, Timer>();
  private closing = false;

  private readonly retired: RetiredGroups;

  constructor(private readonly options: TargetSideOptions) {
    this.retired = new RetiredGroups(options.storage, options.directory);
  }

  list(): TargetGroup[] {
    return [...this.groups.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  find(name: string): TargetGroup | undefined {
    return this.groups.get(name);
  }

  get(name: string): TargetGroup {
    const group = this.groups.get(name);
    if (group !== undefined) return group;
    const failure = this.failures.get(name);
    // It is not gone: whoever asks must not take it for deleted.
    if (failure !== undefined) throw new TidemarkError('group-not-opened', `Group ${name} is not open: ${failure}`);
    throw new TidemarkError('group-unknown', `This agent has no target group ${name}.`);
  }

  /** What the group runs by, as one would declare it. */
  policy(name: string): GroupPolicy {
    const { settings, manifest } = this.get(name).context;
    const { policyRevision, owner } = settings;
    return { spec: specOf(settings, manifest.state, this.options.keys.get(name)), policyRevision, owner };
  }

  accept(connection: Connection): void {
    new TargetSession(connection, this.options.clock, (name) => this.get(name));
  }

  /** Groups that are on the disk and could not be opened, with why. */
  get notOpened(): ReadonlyMap<string, string> {
    return this.failures;
  }

  /** Opens every group that the directory holds; a name whose key is missing or whose journal is damaged is reported. */
  async open(): Promise<void> {
    const { storage, directory } = this.options;
    await storage.makeDirectory(directory);
    for (const name of await storage.list(directory)) {
      if (!name.startsWith('.')) await this.tryStart(name);
    }
  }

  /** Groups of the configuration; one that cannot be declared is reported, the others go on. */
  async declareAll(configs: readonly TargetGroupConfig[]): Promise<void> {
    for (const { name, ...spec } of configs) {
      // It is there and could not be opened: that is tried again.
      if (this.retries.has(name)) continue;
      try {
        await this.declare(name, spec, nobody);
        this.failures.delete(name);
      } catch (error) {
        this.failed(name, error);
      }
    }
  }

  /** Creates the group, above the epoch of `parent`, or changes the settings of one that has the same streams. */
  declare(
    name: string,
    spec: TargetGroupSpec,
    ownership: Ownership,
    parent?: GroupDeclaration['parent'],
  ): Promise<TargetGroup> {
    return this.changes.run(async () => {
      if (spec.recovery !== undefined) this.options.recovery.driver(spec.recovery.hypervisor);
      const known = this.groups.get(name);
      if (known !== undefined) {
        await this.change(known, spec, ownership);
        return known;
      }
      const { keys, storage } = this.options;
      for (const [index, { seed, sizeBytes }] of spec.disks.entries())
        if (seed !== undefined) await checkSeed(storage, seed, sizeBytes, `disks[${index}].seed`);
      const options = this.groupOptions(
        name,
        spec.encryptionKeyFile === undefined ? undefined : await readKeyFile(spec.encryptionKeyFile),
      );
      await keys.remember(name, spec.encryptionKeyFile);
      const group = await TargetGroup.create(options, {
        name,
        streams: spec.streams,
        disks: spec.disks,
        settings: settingsOf(spec, { owner: ownership.owner, policyRevision: 1 }),
        parent,
      });
      this.groups.set(name, group);
      this.options.events.emit('group-declared', { group: name });
      return group;
    });
  }

  /** Stops the group and sets its directory aside; it is deleted when `graceDays` have passed. */
  retire(name: string, graceDays: number, why: RetiredGroup['why']): Promise<void> {
    return this.changes.run(async () => {
      const group = this.groups.get(name);
      if (group === undefined) return;
      const live = group.views.list().filter(({ record }) => record.purpose === 'production');
      if (live.length > 0 || group.context.manifest.state.state === 'committing') {
        throw new TidemarkError('illegal-state', `Group ${name} runs a live view; commit or roll back first.`);
      }
      await this.retired.note(name, this.policy(name), why);
      await this.stop(group);
      const { clock, events, keys } = this.options;
      await this.retired.add(name, Math.round(clock.wallMs() + graceDays * dayMs));
      await keys.remember(name, undefined);
      events.emit('group-retired', { group: name, graceDays });
    });
  }

  /** What was set aside and is still kept. */
  listRetired(): Promise<RetiredGroup[]> {
    return this.changes.run(() => this.retired.list());
  }

  /** Takes a removed group back; one that is there already is `group-exists`. */
  restore(name: string, { untilMs, encryptionKeyFile }: RestoreGroup): Promise<TargetGroup> {
    return this.changes.run(async () => {
      if (this.groups.has(name) || this.failures.has(name))
        throw new TidemarkError('group-exists', `This agent has a group ${name}.`, { path: 'group' });
      const kept = (await this.retired.list()).find(
        (group) => group.name === name && (untilMs === undefined ? group.why === 'removed' : group.untilMs === untilMs),
      );
      if (kept === undefined)
        throw new TidemarkError('group-unknown', `No retired group ${name} is kept here.`, { path: 'group' });
      const { keys, events } = this.options;
      const keyFile = encryptionKeyFile ?? kept.policy?.spec.encryptionKeyFile;
      if (keyFile !== undefined) await readKeyFile(keyFile);
      await keys.remember(name, keyFile);
      await this.retired.restore(kept);
      const group = await this.start(name);
      events.emit('group-restored', { group: name });
      return group;
    });
  }

  /** Deletes retired groups whose time has come. */
  purge(): Promise<void> {
    return this.changes.run(async () => {
      for (const group of await this.retired.purge(this.options.clock.wallMs()))
        this.options.events.emit('group-deleted', { group });
    });
  }

  /** Ends the connections of those that are no peers any more. */
  dismiss(isPeer: (name: string) => boolean): void {
    for (const session of this.list().flatMap((group) => group.sessionList()))
      if (!isPeer(session.peerName)) session.close('peer-refused', `${session.peerName} is not in peers any more.`);
  }

  /** Takes the group directory of a dead appliance over: moved below our own, opened as it is. Idempotent. */
  adopt(name: string, from: string, keyFile: string | undefined): Promise<TargetGroup> {
    return this.changes.run(async () => {
      const { storage, directory, keys } = this.options;
      const known = this.groups.get(name);
      if (known !== undefined) {
        if (await wasAdopted(storage, `${directory}/${name}`, from)) return known;
        throw new TidemarkError('group-exists', `This agent has a group ${name} already.`);
      }
      if (keyFile !== undefined) await readKeyFile(keyFile);
      await adoptDirectory(storage, from, directory, name);
      await keys.remember(name, keyFile);
      const group = await this.start(name);
      this.options.events.emit('group-adopted', { group: name, from });
      return group;
    });
  }

  close(): Promise<void> {
    this.closing = true;
    for (const timer of this.retries.values()) timer.cancel();
    return this.changes.run(async () => {
      for (const group of [...this.groups.values()]) await this.stop(group);
    });
  }

  private async start(name: string): Promise<TargetGroup> {
    const keyFile = this.options.keys.get(name);
    const key = keyFile === undefined ? undefined : await readKeyFile(keyFile);
    const group = await TargetGroup.open(this.groupOptions(name, key));
    if (group.name !== name) {
      await group.close();
      throw new TidemarkError('illegal-state', `The directory ${name} holds the group ${group.name}.`, { path: name });
    }
    this.groups.set(name, group);
    this.failures.delete(name);
    this.retries.delete(name);
    return group;
  }

  /** Starts, or tries again later. */
  private async tryStart(name: string): Promise<void> {
    try {
      await this.start(name);
    } catch (error) {
      // A crash cut its declaration short: it never was a group, and is declared again.
      if (isTidemarkError(error, 'group-unknown')) {
        this.options.events.emit('group-incomplete', { group: name, error: error.message });
        return;
      }
      this.failed(name, error);
      if (this.closing) return;
      const mendable = isTidemarkError(error) && (error.retry || error.code === 'encryption-key');
      const again = (): void => this.reopen(name);
      this.retries.set(name, this.options.clock.after(mendable ? reopenMs : reopenDamagedMs, again));
    }
  }

  private failed(name: string, error: unknown): void {
    if (!isTidemarkError(error)) throw error;
    if (this.failures.get(name) === error.message) return;
    this.failures.set(name, error.message);
    this.options.events.emit('group-not-opened', { group: name, code: error.code, error: error.message });
  }

  /** Its exports go first: they are taken again when the group opens. */
  private async stop(group: TargetGroup): Promise<void> {
    this.groups.delete(group.name);
    const listener = this.viewListener(group.name);
    await Promise.all(group.views.list().map((open) => listener.closing(open)));
    await group.close();
  }

  /** After a failure that only opening again can mend. */
  private reopen(name: string): void {
    if (this.closing) return;
    void this.changes.run(async () => {
      const failed = this.groups.get(name);
      if (this.closing) return;
      if (failed !== undefined) await this.stop(failed);
      await this.tryStart(name);
    });
  }

  private async change(group: TargetGroup, spec: TargetGroupSpec, { owner, previousOwner }: Ownership): Promise<void> {
    const { state } = group.context.manifest;
    const { owner: knownOwner, policyRevision } = group.context.settings;
    if (owner !== null && knownOwner !== null && owner !== knownOwner && previousOwner !== knownOwner) {
      throw new TidemarkError('group-exists', `Group ${group.name} belongs to ${knownOwner}.`, { path: 'owner' });
    }
    if (JSON.stringify([...state.streams.values()]) !== JSON.stringify(spec.streams))
      throw new TidemarkError('group-exists', `Group ${group.name} exists with other streams.`, { path: 'streams' });
    // The source adds, grows and removes disks: a declaration says which may come, and never takes one away.
    for (const [index, { name, stream }] of spec.disks.entries()) {
      const known = [...state.disks.values()].find((disk) => disk.name === name);
      // One whose VM migrated is sent by another source since then.
      const senders = state.diskChanges.filter(({ index: other }) => other === known?.index);
      if (known !== undefined && !senders.some((disk) => state.streams.get(disk.stream) === stream))
        throw new TidemarkError('group-exists', `Disk ${name} of ${group.name} is of another stream.`, {
          path: `disks[${index}].stream`,
        });
    }
    const settings = settingsOf(spec, { owner: owner ?? knownOwner, policyRevision });
    if (JSON.stringify(settings) === JSON.stringify(group.context.settings)) return;
    await group.changeSettings({ ...settings, policyRevision: policyRevision + 1 });
  }

  private groupOptions(name: string, key: Uint8Array | undefined): Parameters<typeof TargetGroup.open>[0] {
    const { storage, clock, random, events, directory, exports, sources, reversal, recovery, rebuildCatalogue } =
      this.options;
    return {
      storage,
      clock,
      random,
      events,
      key,
      sources,
      reversal,
      directory: `${directory}/${name}`,
      views: this.viewListener(name),
      onFailed: () => this.reopen(name),
      machines: (group) => recoverGroup(group, recovery),
      plans: (group) =>
        groupPlans(group, {
          rebuildCatalogue: () => rebuildCatalogue(group),
          diskUri: (view, disk) => exports.uri(viewExportName(name, view, disk)),
        }),
    };
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
