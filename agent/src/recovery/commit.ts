/**
 * Commit of running VMs: every disk is mirrored from the view to a file of its own, every write to both sides; then the
 * point of no return; then disk by disk the VM is moved onto its file, and its definition follows.
 *
 * `FILE.pivoting` is durable before a disk is moved and says: from here on the file counts. A VM that is found off behind
 * the point of no return gets what is missing copied from the view, which holds every acknowledged write of a disk
 * without that mark; with it the file holds them, because the mirror was ready and in step until the VM ended.
 */
import { dirname } from 'node:path';
import { sleep } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { OperationResult, OperationStep, StepContext } from '../target/operations.js';
import { elementOf, elementsOf, attributeOf, parseXml, printXml } from '../hypervisor/xml-tree.js';
import { setDiskSource } from './recovery-xml.js';
import type { OwnedVm } from './driver.js';
import { operationOf, type Room } from './room.js';

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
  const directory = diskDirectory(room, view);
  await storage.makeDirectory(directory);
  const freeBytes = (await storage.freeBytes(directory)) - settings.failoverReserve * replicaBytes;
  if (neededBytes > freeBytes)
    throw new TidemarkError(
      'storage-full',
      `The disks need up to ${neededBytes} bytes; ${Math.max(0, Math.floor(freeBytes))} are free beside the failover reserve.`,
      { path: directory },
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
          return { running: await alive(room) };
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
  for (const vm of await vmsOf(room)) {
    const disks = await disksOf(room, [vm], view);
    for (const disk of disks) await settleDisk(room, disk, view, context);
    await saveDefinition(room, vm, disks);
    if (wanted.has(vm.uuid)) await room.vms.driver.start(vm.uuid);
    await prove(room, vm, disks);
    for (const { path } of disks) await room.group.context.storage.remove(`${path}.pivoting`);
    await room.vms.driver.disown(vm.uuid);
  }
  const { storage } = room.group.context;
  const directory = diskDirectory(room, view);
  await storage.syncDirectory(directory);
  return { files: (await storage.list(directory)).sort().map((file) => `${directory}/${file}`) };
}

/** Copies that a commit left behind when its hypervisor went away, and that nobody asked for again. */
export async function sweepCopies(room: Room): Promise<void> {
  const { context, operations } = room.group;
  await context.lock.run(async () => {
    const { state, views } = context.manifest.state;
    const view = [...views.values()].find(({ purpose }) => purpose === 'production')?.id;
    if (state !== 'failed-over' || view === undefined || operations.unfinished.length > 0) return;
    const directory = diskDirectory(room, view);
    if (!(await context.storage.exists(directory))) return;
    if ((await context.storage.list(directory)).length > 0)
      await abandon(room, await disksOf(room, await vmsOf(room), view));
  });
}

/** With the other files of the failover's VMs: a commit never writes where an earlier one did. */
function diskDirectory(room: Room, view: string): string {
  return `${room.vms.operationDirectory(operationOf(view))}/disks`;
}

function vmsOf(room: Room): Promise<OwnedVm[]> {
  return room.vms.owned(({ purpose }) => purpose === 'live');
}

/** A VM that an I/O error stopped, because its agent was away, runs as soon as it is looked after. */
async function alive(room: Room): Promise<string[]> {
  const uuids: string[] = [];
  for (const { uuid } of await vmsOf(room)) if (!(await isOff(room, uuid))) uuids.push(uuid);
  return uuids;
}

async function isOff(room: Room, uuid: string): Promise<boolean> {
  const state = await room.vms.driver.state(uuid);
  return state === 'off' || state === 'absent';
}

/** By the saved definition, whose disks name their export on the view, or the file that it became. */
async function disksOf(room: Room, owned: readonly OwnedVm[], view: string): Promise<CommitDisk[]> {
  const byExport = new Map<string, string>();
  const byFile = new Map<string, string>();
  for (const name of room.group.views.get(view).disks.keys()) {
    byExport.set(room.exports.exportName(view, name), name);
    byFile.set(pathOf(room, view, name), name);
  }
  const disks: CommitDisk[] = [];
  for (const vm of owned)
    for (const { target, exportName, file } of diskSources(await room.vms.driver.definition(vm.uuid, 'saved'))) {
      const name = byExport.get(exportName ?? '') ?? byFile.get(file ?? '');
      if (name !== undefined) disks.push({ vm, target, name, path: pathOf(room, view, name) });
    }
  return disks;
}

function pathOf(room: Room, view: string, disk: string): string {
  return `${diskDirectory(room, view)}/${disk}.raw`;
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
  const uuids = new Set(await alive(room));
  const mirrored = disks.filter(({ vm }) => uuids.has(vm.uuid));
  for (const disk of mirrored) await begin(room, disk);
  const signal = room.signal(context.signal);
  const begunAgain = new Set<CommitDisk>();
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
    let isWhole = true;
    for (const [index, { state }] of states.entries()) {
      const disk = mirrored[index]!;
      if (state === 'ready' || (state === 'none' && (await isOff(room, disk.vm.uuid)))) continue;
      isWhole = false;
      if (state === 'copying') continue;
      // A copy whose view was away with its agent ends when it notices.
      if (begunAgain.has(disk))
        throw new TidemarkError('hypervisor-failed', `The copy of ${disk.name} ended before it was whole.`);
      begunAgain.add(disk);
      await begin(room, disk);
    }
    if (isWhole) return;
    await sleep(room.group.context.clock, lookMs, signal);
  }
}

/** A file that a copy left behind cannot be used again. */
async function begin(room: Room, { vm, target, path }: CommitDisk): Promise<void> {
  const { driver } = room.vms;
  const { storage } = room.group.context;
  if ((await driver.copyState(vm.uuid, target)).state !== 'none') return;
  await storage.remove(path);
  await storage.makeDirectory(dirname(path));
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
  if (await isOff(room, disk.vm.uuid)) {
    if ((await storage.exists(mark)) || (await onFile(room, disk, 'saved'))) return;
    await storage.remove(disk.path);
    const progress = (done: number, total: number): void => context.progress(done, total);
    await room.group.views.copyDisk(view, disk.name, disk.path, progress, room.stopping.signal);
    await storage.syncDirectory(dirname(disk.path));
    return;
  }
  if (await onFile(room, disk, 'live')) return;
  await removeMark(room, mark);
  await begin(room, disk);
  await ready(room, disk);
  await sync(room, disk.path);
  await writeMark(room, mark);
  try {
    await driver.pivotCopy(disk.vm.uuid, disk.target);
  } catch (error) {
    // A copy that failed is behind from now on: the file must not count while the VM goes on without it.
    if (!(await isOff(room, disk.vm.uuid)) && !(await onFile(room, disk, 'live'))) await removeMark(room, mark);
    throw error;
  }
}

/** Both sides hold every write. */
async function ready(room: Room, { vm, target, name }: CommitDisk): Promise<void> {
  const { clock } = room.group.context;
  for (;;) {
    const { state } = await room.vms.driver.copyState(vm.uuid, target);
    if (state === 'ready') return;
    if (state === 'none')
      throw new TidemarkError('hypervisor-failed', `The copy of ${name} ended before it was whole.`);
    await sleep(clock, lookMs, room.stopping.signal);
  }
}

async function sync(room: Room, path: string): Promise<void> {
  const file = await room.group.context.storage.open(path, 'write');
  await file.datasync().finally(() => file.close());
}

async function writeMark(room: Room, mark: string): Promise<void> {
  const { storage } = room.group.context;
  const file = await storage.open(mark, 'create');
  await file.datasync().finally(() => file.close());
  await storage.syncDirectory(dirname(mark));
}

async function removeMark(room: Room, mark: string): Promise<void> {
  const { storage } = room.group.context;
  if (!(await storage.exists(mark))) return;
  await storage.remove(mark);
  await storage.syncDirectory(dirname(mark));
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
