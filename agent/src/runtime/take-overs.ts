/**
 * The side of a reversal that the group comes home to: its old VMs leave, its old disks seed the replica of a target group
 * of the same name, and it captures nothing of the group any more.
 *
 * Checked, nothing touched → VMs that still run are ended (only when asked for) → disks that are not raw are copied to raw
 * → the record (from here on the group goes this way, also after a kill) → {@link settle}: capture ends, the fence is
 * lifted, the VMs' definitions are kept as files and forgotten by the hypervisor, an earlier history is retired, the target
 * group is declared.
 */
import type { SourceFences } from '../fencing/source-fences.js';
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import type { Storage } from '../core/storage.js';
import type { Hypervisor, Vm } from '../hypervisor/hypervisor.js';
import type { RecoveryDriver } from '../recovery/driver.js';
import { convertDisk } from '../service/convert.js';
import type { TakeOver } from '../target/reversal.js';
import type { DirectionRecords, TargetDirection } from './direction-records.js';
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

export class TakeOvers {
  constructor(private readonly options: TakeOverOptions) {}

  /** Resolves when the group is a target here, ready for `peer`. The same operation may ask again. */
  async run(
    { id, group, peer }: { readonly id: string; readonly group: string; readonly peer: string },
    args: TakeOver,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<Record<string, unknown>> {
    const known = this.options.records.get(group);
    const record =
      known?.role === 'target' && known.operation === id
        ? known
        : await this.prepare({ id, group, peer }, args, progress, signal);
    await this.settle(record);
    const seeded = record.spec.disks.filter(({ seed }) => seed !== undefined).map(({ name }) => name);
    return { seeded, whole: record.spec.disks.map(({ name }) => name).filter((name) => !seeded.includes(name)) };
  }

  /** Goes on with what a kill cut short. */
  async resume(): Promise<void> {
    for (const record of this.options.records.list()) if (record.role === 'target') await this.settle(record);
  }

  /** Deletes disks that this agent itself had made, when their time has passed. */
  async purge(): Promise<void> {
    const { records, clock, storage, directory } = this.options;
    for (const record of records.list()) {
      if (record.role !== 'target' || clock.wallMs() < record.keepUntilMs) continue;
      for (const { seed } of record.spec.disks)
        if (seed?.startsWith(`${directory}/${record.group}/`) === true) await storage.remove(seed);
    }
  }

  private async prepare(
    { id, group, peer }: { readonly id: string; readonly group: string; readonly peer: string },
    args: TakeOver,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<TargetDirection> {
    const { records, sources, vms, clock, listens } = this.options;
    if (!listens)
      throw new TidemarkError('illegal-state', 'This agent takes no streams: it has no listen.stream.', {
        path: 'listen.stream',
      });
    const source = sources.find(group);
    if (source === undefined) throw new TidemarkError('group-unknown', `This agent has no source group ${group}.`);
    const link = source.group.status.links.find(({ target }) => target === peer);
    if (link === undefined)
      throw new TidemarkError('illegal-state', `Group ${group} is not sent to ${peer}, so it cannot come from there.`);
    if (link.epoch > args.parent.epoch)
      throw new TidemarkError(
        'stale-epoch',
        `Epoch ${args.parent.epoch} of ${group} is over: ${link.epoch} is known here.`,
      );
    if (source.config.disks.length > 0)
      throw new TidemarkError('illegal-state', `Group ${group} has disks that are not of VMs here.`, { path: 'disks' });
    const attachments = vms.of(group);
    const hypervisor = attachments[0]?.hypervisor.name;
    if (hypervisor === undefined) throw new TidemarkError('vm-unknown', `Group ${group} has no VM here.`);
    // Throws when VMs cannot come back by it.
    this.options.driver(hypervisor);
    const running: OldVm[] = [];
    const disks: OldDisk[] = [];
    const old: OldVm[] = [];
    for (const { hypervisor: host, vm, disks: attached } of attachments) {
      const found = await findVm(host, vm.uuid);
      if (found === undefined) continue;
      const each = { hypervisor: host.name, name: vm.name, uuid: vm.uuid };
      old.push(each);
      if (found.state !== 'off') running.push(each);
      for (const { target, name } of attached) {
        const disk = found.disks.find((candidate) => candidate.target === target);
        if (disk !== undefined) disks.push({ name, file: disk.source, format: disk.format });
      }
    }
    await this.endRunning(group, running, peer, args);
    for (const { hypervisor: host, vm, disks: attached } of attachments) {
      if (!old.some(({ uuid }) => uuid === vm.uuid)) continue;
      const named = attached.map(({ target, name }) => ({ target, disk: name }));
      const definition = await host.readDefinition(vm, named);
      await records.keepDefinition(group, vm.name, `${JSON.stringify(definition, null, 2)}\n`);
    }
    const seeds = await this.seeds(group, disks, args, progress, signal);
    const { keepOldDisksDays, encryptionKeyFile } = args;
    const record: TargetDirection = {
      ...{ version: 1, role: 'target', group, operation: id, parent: args.parent, vms: old },
      keepUntilMs: Math.round(clock.wallMs() + keepOldDisksDays * dayMs),
      spec: {
        ...args.policy,
        streams: [peer],
        disks: args.disks.map((disk) => ({ ...disk, stream: peer, ...seedOf(seeds.get(disk.name)) })),
        recovery: { ...args.recovery, hypervisor },
        ...(encryptionKeyFile === undefined ? {} : { encryptionKeyFile }),
      },
    };
    await records.save(record);
    return record;
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
      await storage.remove(raw);
      const onProgress = (share: number): void => progress(doneBytes + Math.round(share * sizeOf(name)), totalBytes);
      await convertDisk({ uri: file, sourceFormat: format, file: raw, format: 'raw', onProgress, signal });
      doneBytes += sizeOf(name);
      seeds.set(name, raw);
    }
    return seeds;
  }

  /** Every part may run twice. */
  private async settle({ group, spec, parent, vms, keepUntilMs, operation }: TargetDirection): Promise<void> {
    const { sources, targets, fences, driver, clock, events } = this.options;
    const isNew = targets.find(group)?.context.manifest.state.epochs[0]?.parentBranch !== parent.branch;
    await sources.remove(group);
    await fences.forget(group);
    if (!isNew) return;
    for (const { hypervisor, uuid } of vms) await driver(hypervisor).remove(uuid);
    // What was here when the group went the other way.
    const days = Math.max(0, (keepUntilMs - clock.wallMs()) / dayMs);
    if (targets.find(group) !== undefined) await targets.retire(group, days);
    await targets.declare(group, spec, { owner: null, previousOwner: null }, parent);
    events.emit('group-turned', { group, role: 'target', operation });
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
