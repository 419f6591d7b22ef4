/**
 * The side of a reversal that the group comes home to: its old VMs leave, its old disks seed the replica of a target group
 * of the same name, and it captures nothing of the group any more.
 *
 * Checked, nothing touched → VMs that still run are ended (only when asked for) → disks that are not raw are copied to raw
 * → the record (from here on the group goes this way, also after a kill) → {@link settle}: capture ends, the fence is
 * lifted, the VMs' definitions are kept as files and forgotten by the hypervisor, an earlier history is retired, the target
 * group is declared.
 */
import type { SourceGroupConfig } from '../config/schema-groups.js';
import type { SourceFences } from '../fencing/source-fences.js';
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import type { Storage } from '../core/storage.js';
import type { Hypervisor, Vm } from '../hypervisor/hypervisor.js';
import type { RecoveryDriver } from '../recovery/driver.js';
import { convertDisk } from '../service/convert.js';
import { holdMsMaxDefault } from '../service/group-spec.js';
import type { TakeOver } from '../target/reversal.js';
import type { DirectionRecords, TargetDirection } from './direction-records.js';
import type { OldDisks } from './old-disks.js';
import type { SourceSide } from './source-side.js';
import type { SourceVms } from './source-vms.js';
import type { TargetSide } from './target-side.js';

const dayMs = 86_400_000;
/** Endings of an image's name are not believed; these formats can be read. */
const convertible = new Set(['qcow2', 'vmdk', 'vdi', 'vhdx', 'qed']);

export interface TakeOverOptions {
  readonly records: DirectionRecords;
  readonly sources: SourceSide;
  readonly targets: TargetSide;
  readonly vms: SourceVms;
  readonly fences: SourceFences;
  readonly oldDisks: OldDisks;
  /** Spools and epoch files of the links lie below it. */
  readonly spoolDirectory: string;
  /** Of the source group as it is now, also when it could not be opened. */
  readonly configured: (group: string) => SourceGroupConfig | undefined;
  readonly driver: (hypervisor: string) => RecoveryDriver;
  readonly storage: Storage;
  readonly clock: Clock;
  readonly events: EventSink;
  /** Of copies of old disks. */
  readonly directory: string;
  readonly site: string;
  /** False: nobody can send to this agent. */
  readonly listens: boolean;
}

/** A disk of a VM that leaves. */
interface OldDisk {
  readonly name: string;
  readonly file: string;
  readonly format: string;
}

type OldVm = TargetDirection['vms'][number];
type Progress = (doneBytes: number, totalBytes: number) => void;

interface Asked {
  readonly id: string;
  readonly group: string;
  readonly peer: string;
}

/** What is left here of the group. */
interface OldSide {
  readonly vms: readonly OldVm[];
  readonly running: readonly OldVm[];
  readonly disks: readonly OldDisk[];
}

export class TakeOvers {
  private readonly settling = new Mutex();

  constructor(private readonly options: TakeOverOptions) {}

  /** Resolves when the group is a target here, ready for `peer`. May be asked again, also by another operation. */
  async run(asked: Asked, args: TakeOver, progress: Progress, signal: AbortSignal): Promise<Record<string, unknown>> {
    const known = this.options.records.get(asked.group);
    const isSame =
      known?.role === 'target' &&
      known.parent.branch === args.parent.branch &&
      known.spec.streams.every((stream) => stream === asked.peer);
    const record = isSame ? known : await this.prepare(asked, args, progress, signal);
    await this.settle(record);
    const seeded = record.spec.disks.filter(({ seed }) => seed !== undefined).map(({ name }) => name);
    return { seeded, whole: record.spec.disks.map(({ name }) => name).filter((name) => !seeded.includes(name)) };
  }

  /** Goes on with what a kill cut short; what fails is told, and tried again in the next call. */
  async resume(): Promise<void> {
    for (const record of this.options.records.list()) {
      if (record.role !== 'target') continue;
      try {
        await this.settle(record);
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        const { code, message } = error;
        this.options.events.emit('take-over-unfinished', { group: record.group, code, error: message });
      }
    }
  }

  /** A person ends what a reversal began: the group goes as it is declared here, if it is. May be asked again. */
  async end(group: string): Promise<void> {
    const { records, sources, storage, spoolDirectory, events } = this.options;
    const record = records.get(group);
    if (record === undefined) return;
    if (record.role === 'source') {
      await sources.remove(group);
      await storage.removeTree(`${spoolDirectory}/${group}`);
    }
    await records.remove(group);
    events.emit('group-turned', { group, role: 'declared', operation: record.operation });
  }

  private async prepare(
    asked: Asked,
    args: TakeOver,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<TargetDirection> {
    const { records, clock } = this.options;
    const { id, group, peer } = asked;
    const hypervisor = this.check(asked, args);
    const old = await this.oldSide(group);
    await this.endRunning(group, old.running, peer, args);
    await this.keepDefinitions(group, old);
    const seeds = await this.seeds(group, old.disks, args, progress, signal);
    const { keepOldDisksDays, encryptionKeyFile } = args;
    const record: TargetDirection = {
      ...{ version: 1, role: 'target', group, operation: id, parent: args.parent, vms: [...old.vms], settled: false },
      keepUntilMs: Math.round(clock.wallMs() + keepOldDisksDays * dayMs),
      spec: {
        ...args.policy,
        holdMsMax: holdMsMaxDefault, // One source agent: nothing is held.
        streams: [peer],
        disks: args.disks.map((disk) => ({ ...disk, stream: peer, ...seedOf(seeds.get(disk.name)) })),
        recovery: { ...args.recovery, hypervisor },
        ...(encryptionKeyFile === undefined ? {} : { encryptionKeyFile }),
      },
    };
    await records.save(record);
    return record;
  }

  /** Throws what makes it impossible; returns the hypervisor that VMs come back by. */
  private check({ group, peer }: Asked, args: TakeOver): string {
    const { sources, configured, driver, listens } = this.options;
    if (!listens)
      throw new TidemarkError('illegal-state', 'This agent takes no streams: it has no listen.stream.', {
        path: 'listen.stream',
      });
    const config = configured(group);
    if (config === undefined) throw new TidemarkError('group-unknown', `This agent has no source group ${group}.`);
    if (!config.targets.some((target) => target.peer === peer))
      throw new TidemarkError('illegal-state', `Group ${group} is not sent to ${peer}, so it cannot come from there.`);
    if (config.disks.length > 0)
      throw new TidemarkError('illegal-state', `Group ${group} has disks that are not of VMs here.`, { path: 'disks' });
    const link = sources.find(group)?.group.status.links.find(({ target }) => target === peer);
    if (link !== undefined && link.epoch > args.parent.epoch)
      throw new TidemarkError(
        'stale-epoch',
        `Epoch ${args.parent.epoch} of ${group} is over: ${link.epoch} is known here.`,
      );
    const [first] = config.vms;
    if (first === undefined) throw new TidemarkError('vm-unknown', `Group ${group} has no VM here.`);
    driver(first.hypervisor);
    return first.hypervisor;
  }

  /** Nothing is left of a site that was built anew. */
  private async oldSide(group: string): Promise<OldSide> {
    const vms: OldVm[] = [];
    const running: OldVm[] = [];
    const disks: OldDisk[] = [];
    for (const { hypervisor, vm, disks: attached } of this.options.vms.of(group)) {
      const found = await findVm(hypervisor, vm.uuid);
      if (found === undefined) continue;
      const each = { hypervisor: hypervisor.name, name: vm.name, uuid: vm.uuid };
      vms.push(each);
      if (found.state !== 'off') running.push(each);
      for (const { target, name } of attached) {
        const disk = found.disks.find((candidate) => candidate.target === target);
        if (disk !== undefined) disks.push({ name, file: disk.source, format: disk.format });
      }
    }
    return { vms, running, disks };
  }

  private async keepDefinitions(group: string, { vms: old }: OldSide): Promise<void> {
    const { records, vms } = this.options;
    for (const { hypervisor, vm, disks } of vms.of(group)) {
      if (!old.some(({ uuid }) => uuid === vm.uuid)) continue;
      const named = disks.map(({ target, name }) => ({ target, disk: name }));
      const definition = await hypervisor.readDefinition(vm, named);
      await records.keepDefinition(group, vm.name, `${JSON.stringify(definition, null, 2)}\n`);
    }
  }

  /** Two sides that both run are for a person to choose between. */
  private async endRunning(group: string, running: readonly OldVm[], peer: string, args: TakeOver): Promise<void> {
    if (running.length === 0) return;
    const { site, fences } = this.options;
    const orphan = fences.get(group)?.orphan;
    const unsent =
      orphan === undefined
        ? ''
        : ` ${orphan.name} holds what ${peer} never got: ${orphan.bytes} bytes${orphan.seconds === null ? '' : `, ${orphan.seconds.toFixed(1)} s`}.`;
    if (!args.discardSource)
      throw new TidemarkError(
        'split',
        `Group ${group} runs at two sites: at ${peer} since epoch ${args.parent.epoch}, and here at ${site}: ${running.map(({ name }) => name).join(', ')}.${unsent}`,
        { path: 'arguments.discardSource' },
      );
    for (const { hypervisor, uuid } of running) await this.options.driver(hypervisor).stop(uuid);
    this.options.events.emit('source-discarded', { group, vms: running.map(({ name }) => name) });
  }

  /** By disk of the group: a raw file of what it was here. */
  private async seeds(
    group: string,
    disks: readonly OldDisk[],
    args: TakeOver,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<Map<string, string>> {
    const { storage, directory } = this.options;
    const wanted = disks.filter(({ name }) => args.disks.some((disk) => disk.name === name));
    const sizeOf = (name: string): number => args.disks.find((disk) => disk.name === name)?.sizeBytes ?? 0;
    const copied = wanted.filter(({ format }) => convertible.has(format));
    const totalBytes = copied.reduce((sum, { name }) => sum + sizeOf(name), 0);
    const seeds = new Map<string, string>();
    let doneBytes = 0;
    for (const { name, file, format } of wanted) {
      if (format === 'raw') seeds.set(name, file);
      if (!convertible.has(format)) continue;
      const into = `${directory}/${group}/old`;
      await storage.makeDirectory(into);
      const raw = `${into}/${name}.raw`;
      await this.options.oldDisks.keep(raw);
      await storage.remove(raw);
      const onProgress = (share: number): void => progress(doneBytes + Math.round(share * sizeOf(name)), totalBytes);
      await convertDisk({ uri: file, sourceFormat: format, file: raw, format: 'raw', onProgress, signal });
      doneBytes += sizeOf(name);
      seeds.set(name, raw);
    }
    return seeds;
  }

  /** Every part may run twice. */
  private settle({ group }: TargetDirection): Promise<void> {
    return this.settling.run(async () => {
      const record = this.options.records.get(group);
      if (record?.role === 'target' && !record.settled) await this.settleNow(record);
    });
  }

  private async settleNow(record: TargetDirection): Promise<void> {
    const { records, sources, targets, fences, clock, events } = this.options;
    const { group, spec, parent, keepUntilMs, operation } = record;
    await sources.remove(group);
    await fences.forget(group);
    await this.forgetVms(record);
    const known = targets.find(group);
    const isDeclared = known?.context.manifest.state.epochs[0]?.parentBranch === parent.branch;
    // What was here when the group went the other way.
    if (known !== undefined && !isDeclared)
      await targets.retire(group, Math.max(0, (keepUntilMs - clock.wallMs()) / dayMs), 'reversed');
    await targets.declare(group, spec, { owner: null, previousOwner: null }, parent);
    const seeds = spec.disks.flatMap(({ seed }) => (seed === undefined ? [] : [seed]));
    await this.options.oldDisks.add(seeds.map((path) => ({ group, path, untilMs: keepUntilMs, vms: record.vms })));
    await records.save({ ...record, settled: true });
    events.emit('group-turned', { group, role: 'target', operation });
  }

  /** Name and UUID are free for the VM that comes home. One that somebody has started since is left alone. */
  private async forgetVms({ group, vms }: TargetDirection): Promise<void> {
    for (const { hypervisor, name, uuid } of vms) {
      const driver = this.options.driver(hypervisor);
      const state = await driver.state(uuid);
      if (state === 'off') await driver.remove(uuid);
      else if (state !== 'absent') this.options.events.emit('old-vm-left', { group, vm: name, state });
    }
  }
}

function seedOf(seed: string | undefined): { seed?: string } {
  return seed === undefined ? {} : { seed };
}

/** Undefined: the hypervisor does not know it any more. */
async function findVm(hypervisor: Hypervisor, uuid: string): Promise<Vm | undefined> {
  try {
    return await hypervisor.findVm(uuid);
  } catch (error) {
    if (isTidemarkError(error, 'vm-unknown')) return undefined;
    throw error;
  }
}
