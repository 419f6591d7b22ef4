/** The source groups of an agent: their disks opened and exported, their links, and how the API shows them. */
import { MirrorExport } from '../capture/mirror-export.js';
import { SourceGroup, type TagResult } from '../capture/source-group.js';
import type { AgentConfig } from '../config/schema.js';
import type { SourceGroupConfig } from '../config/schema-groups.js';
import type { Timer } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { LinkOptions } from '../link/environment.js';
import type { BlockDevice } from '../nbd/block-device.js';
import type { Checkpoint } from '../service/checkpoint-schemas.js';
import type { GroupStatus } from '../service/group-schemas.js';
import type { ExportHost } from './exports.js';
import { SourceDisks } from './source-disks.js';
import { sourceStatus } from './source-status.js';
import type { SourceVms, VmDiskHost } from './source-vms.js';
import type { VmDiskPlan } from './vm-plans.js';

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
  readonly vms: SourceVms;
  /** Who declared a group, and how often it was changed. */
  readonly declaredAs: (group: string) => Pick<GroupStatus, 'owner' | 'policyRevision'>;
  /** What is told of a group's hooks. */
  readonly hooksOf: (config: SourceGroupConfig) => GroupStatus['hooks'];
  /** Alerts of a group that are not its links' nor its VMs'. */
  readonly alertsOf: (group: string) => GroupStatus['alerts'];
}

interface Running {
  readonly group: SourceGroup;
  readonly config: SourceGroupConfig;
  readonly disks: SourceDisks;
  /** Of the VMs' disks. */
  readonly exportNames: readonly string[];
}

/** A source group as the service uses it. */
export interface SourceHandle {
  readonly group: SourceGroup;
  readonly config: SourceGroupConfig;
  status(): GroupStatus;
  /** What the source knows to be durable: the newest on each link. */
  checkpoints(): Checkpoint[];
  /** Marks now and waits until a target holds it durably. */
  tag(label: string | undefined, timeoutMs: number): Promise<Checkpoint>;
  /** Waits until a target holds these marks durably, and `also` of that target has resolved. */
  durable(marks: readonly TagResult[], timeoutMs: number, also: (target: string) => Promise<void>): Promise<Checkpoint>;
}

type Target = SourceGroupConfig['targets'][number];

const MiB = 1024 * 1024;
/** From one attempt to open a group that could not be opened to the next. */
const reopenMs = 5000;

export class SourceSide {
  private readonly running = new Map<string, Running>();
  private readonly failures = new Map<string, string>();
  private readonly retries = new Map<string, Timer>();
  private closing = false;

  constructor(private readonly options: SourceSideOptions) {}

  list(): SourceHandle[] {
    return [...this.running.values()].map((running) => this.handle(running));
  }

  find(name: string): SourceHandle | undefined {
    const running = this.running.get(name);
    return running === undefined ? undefined : this.handle(running);
  }

  /** Groups of the configuration that could not be opened, with why; they are tried again. */
  get notOpened(): ReadonlyMap<string, string> {
    return this.failures;
  }

  /** Opens the groups that are not open, and gives the others their new targets and interval. */
  async start(config: Pick<AgentConfig, 'sourceGroups'>): Promise<void> {
    const links = config.sourceGroups.reduce((sum, group) => sum + group.targets.length, 0);
    for (const group of config.sourceGroups) {
      const running = this.running.get(group.name);
      if (running === undefined) await this.tryOpen(group, Math.max(1, links));
      else await this.change(running, group, Math.max(1, links));
    }
  }

  /** The slabs of the agent run out. */
  relieve(): void {
    for (const { group } of this.running.values()) group.relieve();
  }

  /** Waits until everything captured is durable at the targets, then ends the links; the exports are closed before. */
  async drain(signal: AbortSignal): Promise<void> {
    this.closing = true;
    for (const timer of this.retries.values()) timer.cancel();
    await Promise.race([this.options.vms.close(), aborted(signal)]);
    const all = [...this.running.values()];
    await Promise.all(all.map(({ disks }) => disks.unexport()));
    await Promise.all(all.flatMap(({ exportNames }) => exportNames.map((name) => this.options.exports.remove(name))));
    await Promise.all(
      all.flatMap(({ group }) => group.links.map((link) => link.drained(signal).catch(() => undefined))),
    );
    await Promise.all(all.map((running) => this.close(running)));
    this.running.clear();
  }

  /** The group is not captured any more. One that is not there is no error. */
  async remove(name: string): Promise<void> {
    this.retries.get(name)?.cancel();
    this.retries.delete(name);
    this.failures.delete(name);
    const running = this.running.get(name);
    if (running === undefined) return;
    const { exports, vms } = this.options;
    await vms.closeGroup(name);
    await running.disks.unexport();
    await Promise.all(running.exportNames.map((exportName) => exports.remove(exportName)));
    await this.close(running);
    this.running.delete(name);
  }

  private vmDiskHost(group: SourceGroup, exportNames: string[]): VmDiskHost {
    const { vms, exports } = this.options;
    return {
      open: ({ name, exportName }, index) => {
        const backend = new MirrorExport(group, index, (count) => vms.clientsChanged(group.name, name, count));
        exports.add(exportName, backend, `capture of ${exportName}`);
        exportNames.push(exportName);
      },
      close: (exportName) => exports.remove(exportName),
    };
  }

  /** One that cannot be opened (an upstream that is not there yet) does not stop the others. */
  private async tryOpen(config: SourceGroupConfig, linkCount: number): Promise<void> {
    try {
      await this.open(config, linkCount);
      this.failures.delete(config.name);
    } catch (error) {
      const message = describe(error);
      if (this.failures.get(config.name) !== message)
        this.options.environment.events.emit('source-not-opened', { group: config.name, error: message });
      this.failures.set(config.name, message);
      if (this.closing) return;
      this.retries.get(config.name)?.cancel();
      const again = (): void => void this.tryOpen(config, linkCount);
      this.retries.set(config.name, this.options.environment.clock.after(reopenMs, again));
    }
  }

  private async change(running: Running, config: SourceGroupConfig, linkCount: number): Promise<void> {
    const { group, config: before } = running;
    for (const link of group.links) {
      const target = config.targets.find(({ peer }) => peer === link.target);
      if (target === undefined || this.addressOf(target) !== link.status.address) await group.removeLink(link);
    }
    for (const target of config.targets) {
      if (!group.links.some((link) => link.target === target.peer)) this.addLink(group, target, linkCount);
    }
    const seconds = config.checkpointIntervalSeconds;
    if (seconds !== before.checkpointIntervalSeconds) group.setCheckpointInterval(seconds * 1000);
    try {
      await running.disks.change(group, config.disks);
    } catch (error) {
      // The group goes on with the disks that it has; the next reload tries again.
      this.options.environment.events.emit('disks-not-changed', { group: group.name, error: (error as Error).message });
    }
    this.running.set(config.name, { ...running, config });
  }

  private async close({ group, disks }: Running): Promise<void> {
    await group.close();
    await disks.close();
  }

  private async open(config: SourceGroupConfig, linkCount: number): Promise<void> {
    const { options } = this;
    for (const target of config.targets) this.addressOf(target);
    const plans = await options.vms.plan(config);
    const { exports, openDevice } = options;
    const disks = new SourceDisks({ group: config.name, exports, openDevice });
    const exportNames: string[] = [];
    try {
      const group = await this.makeGroup(config, plans, disks);
      disks.serveAll(group);
      const host = this.vmDiskHost(group, exportNames);
      for (const [place, plan] of plans.entries()) host.open(plan, config.disks.length + place);
      this.running.set(config.name, { group, config, disks, exportNames });
      for (const target of config.targets) this.addLink(group, target, linkCount);
      await options.vms.start(group, config, plans, config.disks.length, host);
    } catch (error) {
      for (const name of exportNames) await options.exports.remove(name);
      await disks.unexport();
      await disks.close();
      throw error;
    }
  }

  private async makeGroup(
    config: SourceGroupConfig,
    plans: readonly VmDiskPlan[],
    opened: SourceDisks,
  ): Promise<SourceGroup> {
    const { agent, environment } = this.options;
    const { clock, random, events } = environment;
    const disks = await opened.openAll(config.disks);
    for (const { name, sizeBytes, reader } of plans) disks.push({ name, sizeBytes, reader, attachedLater: true });
    const checkpointIntervalMs = config.checkpointIntervalSeconds * 1000;
    const onWelcome = (): void => this.options.vms.kick(config.name);
    return new SourceGroup({ name: config.name, agent, disks, clock, random, events, checkpointIntervalMs, onWelcome });
  }

  private addLink(group: SourceGroup, target: Target, linkCount: number): void {
    const { options } = this;
    // A share of the memory for each link: together they stay within the agent's buffer.
    const bufferBytes = Math.floor(options.bufferBytes / linkCount / 1.25);
    const spoolBytes = Math.floor(options.spoolBytes / linkCount);
    const spoolFileBytes = Math.max(MiB, Math.min(64 * MiB, Math.ceil(spoolBytes / 4)));
    group.addLink({
      ...options.environment,
      target: target.peer,
      address: this.addressOf(target),
      directory: `${options.directory}/${group.name}/${target.peer}`,
      bounds: { bufferBytes, spoolBytes, spoolFileBytes },
    });
  }

  private addressOf(target: Target): string {
    const address = target.address ?? this.options.addressOf(target.peer);
    if (address !== undefined) return address;
    throw new TidemarkError('config-invalid', `Peer ${target.peer} has no address.`, { path: 'peers' });
  }

  private handle({ group, config }: Running): SourceHandle {
    const { exports, alertsOf, declaredAs, hooksOf, vms } = this.options;
    return {
      group,
      config,
      status: () => {
        const hooks = hooksOf(config);
        return {
          ...sourceStatus(group, config, exports, vms.seen(group.name), alertsOf(group.name)),
          ...declaredAs(group.name),
          ...(hooks === undefined ? {} : { hooks }),
        };
      },
      checkpoints: () =>
        group.status.links.flatMap((link) =>
          link.durableCheckpointId === undefined || link.durableCheckpointMs === undefined
            ? []
            : [
                sourceCheckpoint(group, {
                  id: link.durableCheckpointId,
                  sourceTimeMs: link.durableCheckpointMs,
                  disksMissing: [],
                }),
              ],
        ),
      tag: async (label = 'tagged', timeoutMs) => ({
        ...(await this.durable(group, group.tag(label), timeoutMs)),
        ...{ kind: 'tagged' as const, label },
      }),
      durable: (marks, timeoutMs, also) => this.durable(group, marks, timeoutMs, also),
    };
  }

  /** Durable on one target at least. */
  private async durable(
    group: SourceGroup,
    marks: readonly TagResult[],
    timeoutMs: number,
    also: (target: string) => Promise<void> = () => Promise.resolve(),
  ): Promise<Checkpoint> {
    const { clock } = this.options.environment;
    const given = marks.flatMap(({ target, mark }) => {
      const link = group.links.find((candidate) => candidate.target === target);
      return mark === undefined || link === undefined ? [] : [{ link, mark, incarnation: link.status.incarnation }];
    });
    const late = new TidemarkError('peer-unreachable', `The checkpoint is not durable after ${timeoutMs / 1000} s.`);
    const abort = new AbortController();
    const timer = clock.after(timeoutMs, () => abort.abort(late));
    try {
      return await Promise.any(
        given.map(async ({ link, mark, incarnation }) => {
          await link.drained(abort.signal);
          if (link.status.incarnation !== incarnation)
            throw new TidemarkError('peer-unreachable', `${link.target} lost the checkpoint: its history began anew.`);
          await also(link.target);
          return sourceCheckpoint(group, mark);
        }),
      );
    } catch (error) {
      throw error instanceof AggregateError ? (error.errors[0] ?? late) : error;
    } finally {
      timer.cancel();
    }
  }
}

/** With what a person looks up and corrects. */
function describe(error: unknown): string {
  const { message } = error as Error;
  if (!isTidemarkError(error)) return message;
  return `${message} (${error.code}${error.path === undefined ? '' : ` at ${error.path}`})`;
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

function sourceCheckpoint(
  group: SourceGroup,
  mark: { readonly id: string; readonly sourceTimeMs: number; readonly disksMissing: readonly string[] },
): Checkpoint {
  const diskCount = group.disks.filter(({ removed }) => removed !== true).length;
  return {
    id: mark.id,
    kind: 'crash',
    label: null,
    sourceTimeMs: mark.sourceTimeMs,
    epoch: group.status.links[0]?.epoch ?? 0,
    diskCount,
    disksPresent: diskCount - mark.disksMissing.length,
    complete: mark.disksMissing.length === 0,
    pins: [],
    attributes: {},
  };
}
