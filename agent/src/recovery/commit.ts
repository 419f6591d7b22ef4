/**
 * Commit of running VMs: every disk is mirrored from the view to a file of its own, every write to both sides; then the
 * point of no return; then disk by disk the VM is moved onto its file, and its definition follows.
 *
 * `FILE.pivoting` is durable before a disk is moved and says: from here on the file counts. A VM that is found off behind
 * the point of no return gets what is missing copied from the view, which holds every acknowledged write of a disk
 * without that mark; with it the file holds them, because the mirror was ready and in step until the VM ended.
 */
import { sleep } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { OperationResult, OperationStep, StepContext } from '../target/operations.js';
import { elementOf, elementsOf, attributeOf, parseXml, printXml } from '../hypervisor/xml-tree.js';
import { setDiskSource } from './recovery-xml.js';
import type { OwnedVm } from './driver.js';
import type { Room } from './room.js';

const lookMs = 200;

/** A disk of a recovered VM, on its view or already on its file. */
interface CommitDisk {
  readonly vm: OwnedVm;
  /** In the VM, e.g. `vda`. */
  readonly target: string;
  /** In the group. */
  readonly name: string;
  readonly path: string;
}

export async function checkCommit(room: Room, view: string): Promise<OperationResult> {
  const { group, vms } = room;
  const { storage, settings } = group.context;
  await vms.driver.ping();
  const recovered = await vms.owned(({ purpose }) => purpose === 'live');
  if (recovered.length === 0)
    throw new TidemarkError('vm-unknown', `No recovered VM of group ${group.name} is on ${vms.driver.name}.`);
  for (const { uuid, mark } of recovered) {
    const state = await vms.driver.state(uuid);
    if (state !== 'running' && state !== 'off')
      throw new TidemarkError('illegal-state', `VM ${mark.vm} is ${state}; a commit needs it running or off.`);
  }
  const sizes = new Map([...group.views.get(view).disks].map(([name, { sizeBytes }]) => [name, sizeBytes]));
  const disks = await disksOf(room, recovered, view);
  const neededBytes = disks.reduce((sum, { name }) => sum + (sizes.get(name) ?? 0), 0);
  const replicaBytes = [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
  await storage.makeDirectory(diskDirectory(room));
  const freeBytes = (await storage.freeBytes(diskDirectory(room))) - settings.failoverReserve * replicaBytes;
  if (neededBytes > freeBytes)
    throw new TidemarkError(
      'storage-full',
      `The disks need up to ${neededBytes} bytes; ${Math.max(0, Math.floor(freeBytes))} are free beside the failover reserve.`,
      { path: diskDirectory(room) },
    );
  return { vms: recovered.map(({ mark }) => mark.vm) };
}

export function commitSteps(room: Room): OperationStep[] {
  return [
    {
      name: 'mirrored',
      background: true,
      mayFail: true,
      run: async (context) => {
        if (context.record.result?.['vms'] === undefined) return {};
        await room.environment.serving;
        const view = String(context.record.result['view']);
        const disks = await disksOf(room, await vmsOf(room), view);
        try {
          await mirror(room, disks, context);
          return { running: await running(room) };
        } catch (error) {
          if (!room.stopping.signal.aborted) await abandon(room, disks);
          throw error;
        }
      },
    },
  ];
}

/** Behind the point of no return; every part may run twice. */
export async function settleCommit(room: Room, context: StepContext): Promise<OperationResult> {
  await room.environment.serving;
  const view = String(context.record.result?.['view']);
  const wanted = new Set(context.record.result?.['running'] as string[]);
  const files: string[] = [];
  for (const vm of await vmsOf(room)) {
    const disks = await disksOf(room, [vm], view);
    for (const disk of disks) {
      await settleDisk(room, disk, view, context);
      files.push(disk.path);
    }
    await saveDefinition(room, vm, disks);
    if (wanted.has(vm.uuid)) await room.vms.driver.start(vm.uuid);
    await prove(room, vm, disks);
    for (const { path } of disks) await room.group.context.storage.remove(`${path}.pivoting`);
    await room.vms.driver.disown(vm.uuid);
  }
  await room.group.context.storage.syncDirectory(diskDirectory(room));
  return { files };
}

function diskDirectory(room: Room): string {
  return `${room.directory}/disks`;
}

function vmsOf(room: Room): Promise<OwnedVm[]> {
  return room.vms.owned(({ purpose }) => purpose === 'live');
}

async function running(room: Room): Promise<string[]> {
  const uuids: string[] = [];
  for (const { uuid } of await vmsOf(room)) if ((await room.vms.driver.state(uuid)) === 'running') uuids.push(uuid);
  return uuids;
}

/** By the saved definition, whose disks name their export on the view, or the file that it became. */
async function disksOf(room: Room, owned: readonly OwnedVm[], view: string): Promise<CommitDisk[]> {
  const byExport = new Map<string, string>();
  const byFile = new Map<string, string>();
  for (const name of room.group.views.get(view).disks.keys()) {
    byExport.set(room.exports.exportName(view, name), name);
    byFile.set(pathOf(room, name), name);
  }
  const disks: CommitDisk[] = [];
  for (const vm of owned)
    for (const { target, exportName, file } of diskSources(await room.vms.driver.definition(vm.uuid, 'saved'))) {
      const name = byExport.get(exportName ?? '') ?? byFile.get(file ?? '');
      if (name !== undefined) disks.push({ vm, target, name, path: pathOf(room, name) });
    }
  return disks;
}

function pathOf(room: Room, disk: string): string {
  return `${diskDirectory(room)}/${disk}.raw`;
}

interface SourceOfDisk {
  readonly target: string;
  readonly exportName: string | undefined;
  readonly file: string | undefined;
}

function diskSources(xml: string): SourceOfDisk[] {
  const devices = elementOf(parseXml(xml, 'domain', 'A recovered VM'), 'devices');
  return (devices === undefined ? [] : elementsOf(devices, 'disk')).map((disk) => ({
    target: attributeOf(disk, ['target'], 'dev') ?? '',
    exportName: attributeOf(disk, ['source'], 'name'),
    file: attributeOf(disk, ['source'], 'file'),
  }));
}

async function onFile(room: Room, { vm, target, path }: CommitDisk, which: 'live' | 'saved'): Promise<boolean> {
  const sources = diskSources(await room.vms.driver.definition(vm.uuid, which));
  return sources.find((source) => source.target === target)?.file === path;
}

async function mirror(room: Room, disks: readonly CommitDisk[], context: StepContext): Promise<void> {
  const { driver } = room.vms;
  const alive = new Set(await running(room));
  const mirrored = disks.filter(({ vm }) => alive.has(vm.uuid));
  for (const disk of mirrored) await begin(room, disk);
  const signal = room.signal(context.signal);
  for (;;) {
    const states = await Promise.all(mirrored.map(({ vm, target }) => driver.copyState(vm.uuid, target)));
    const doneBytes = states.reduce((sum, state) => sum + state.doneBytes, 0);
    context.progress(
      doneBytes,
      Math.max(
        doneBytes,
        states.reduce((sum, state) => sum + state.totalBytes, 0),
      ),
    );
    for (const [index, { state }] of states.entries()) {
      const disk = mirrored[index]!;
      if (state === 'none' && (await driver.state(disk.vm.uuid)) === 'running')
        throw new TidemarkError('hypervisor-failed', `The copy of ${disk.name} ended before it was whole.`);
    }
    if (states.every(({ state }) => state !== 'copying')) return;
    await sleep(room.group.context.clock, lookMs, signal);
  }
}

/** A file that a copy left behind cannot be used again. */
async function begin(room: Room, { vm, target, path }: CommitDisk): Promise<void> {
  const { driver } = room.vms;
  const { storage } = room.group.context;
  if ((await driver.copyState(vm.uuid, target)).state !== 'none') return;
  await storage.remove(path);
  await storage.makeDirectory(diskDirectory(room));
  await driver.startCopy(vm.uuid, target, path);
}

async function abandon(room: Room, disks: readonly CommitDisk[]): Promise<void> {
  for (const { vm, target, path } of disks) {
    await room.vms.driver.abortCopy(vm.uuid, target);
    await room.group.context.storage.remove(path);
  }
}

async function settleDisk(room: Room, disk: CommitDisk, view: string, context: StepContext): Promise<void> {
  const { driver } = room.vms;
  const { storage } = room.group.context;
  const mark = `${disk.path}.pivoting`;
  const state = await driver.state(disk.vm.uuid);
  if (state === 'off' || state === 'absent') {
    if ((await storage.exists(mark)) || (await onFile(room, disk, 'saved'))) return;
    await storage.remove(disk.path);
    const progress = (done: number, total: number): void => context.progress(done, total);
    await room.group.views.copyDisk(view, disk.name, disk.path, progress, room.stopping.signal);
    await storage.syncDirectory(diskDirectory(room));
    return;
  }
  if (await onFile(room, disk, 'live')) return;
  await storage.remove(mark);
  await begin(room, disk);
  while ((await driver.copyState(disk.vm.uuid, disk.target)).state === 'copying')
    await sleep(room.group.context.clock, lookMs, room.stopping.signal);
  await sync(room, disk.path);
  await writeMark(room, mark);
  await driver.pivotCopy(disk.vm.uuid, disk.target);
}

async function sync(room: Room, path: string): Promise<void> {
  const file = await room.group.context.storage.open(path, 'write');
  await file.datasync().finally(() => file.close());
}

async function writeMark(room: Room, mark: string): Promise<void> {
  const { storage } = room.group.context;
  const file = await storage.open(mark, 'create');
  await file.datasync().finally(() => file.close());
  await storage.syncDirectory(diskDirectory(room));
}

/** The definition that the VM starts with next time has its disks on the files. */
async function saveDefinition(room: Room, vm: OwnedVm, disks: readonly CommitDisk[]): Promise<void> {
  const domain = parseXml(await room.vms.driver.definition(vm.uuid, 'saved'), 'domain', `VM ${vm.mark.vm}`);
  const devices = elementOf(domain, 'devices');
  for (const disk of devices === undefined ? [] : elementsOf(devices, 'disk')) {
    const target = attributeOf(disk, ['target'], 'dev');
    const found = disks.find((each) => each.target === target);
    if (found !== undefined) setDiskSource(disk, { kind: 'file', path: found.path });
  }
  await room.vms.driver.define(printXml(domain));
}

/** Read back: nothing of the VM is on the view any more. */
async function prove(room: Room, vm: OwnedVm, disks: readonly CommitDisk[]): Promise<void> {
  const alive = (await room.vms.driver.state(vm.uuid)) === 'running';
  for (const disk of disks)
    for (const which of alive ? (['saved', 'live'] as const) : (['saved'] as const))
      if (!(await onFile(room, disk, which)))
        throw new TidemarkError(
          'hypervisor-failed',
          `Disk ${disk.name} of VM ${vm.mark.vm} is not on ${disk.path} yet (${which}).`,
        );
}
