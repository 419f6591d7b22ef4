/**
 * An application in two real VMs: PostgreSQL in one (data and write-ahead log on disks of their own); the other commits
 * numbers into it over the network and keeps each acknowledged one on its own disk. So a checkpoint of both shows by
 * itself whether the order of writes across VMs was kept.
 */
import { statSync, writeFileSync } from 'node:fs';
import type { Virsh } from '../../agent/src/hypervisor/virsh.js';
import { guestExec } from './guest-agent.js';
import { guestDisk, guestImage, type GuestDisk, type GuestImage } from './guest-image.js';
import type { Laboratory } from './laboratory.js';
import { waitFor } from './wait.js';

const memoryMiB = 256;
export const network = 'lan';
const dbAddress = '10.77.0.2';

export interface Tier {
  readonly name: string;
  readonly uuid: string;
  readonly mac: string;
  readonly address: string;
  readonly disks: readonly GuestDisk[];
}

export const tiers: readonly Tier[] = [
  {
    ...{ name: 'db', uuid: 'dbdbdbdb-6a77-4f0e-9a51-7be8a4a0c0de', mac: '52:54:00:77:00:02', address: dbAddress },
    disks: ['root', 'data', 'wal'],
  },
  {
    ...{ name: 'client', uuid: 'c11e47c1-6a77-4f0e-9a51-7be8a4a0c0de', mac: '52:54:00:77:00:03', address: '10.77.0.3' },
    disks: ['root', 'acks'],
  },
];

/** Names and sizes that a group which protects the VM has. */
export function groupDisks(
  image: GuestImage,
  vms: readonly string[],
  of: readonly Tier[] = tiers,
): { name: string; sizeBytes: number }[] {
  return of
    .filter(({ name }) => vms.includes(name))
    .flatMap(({ name, disks }) =>
      disks.map((disk, index) => ({
        name: `${name}-${target(index)}`,
        sizeBytes: statSync(guestDisk(image, disk)).size,
      })),
    );
}

/** Makes the network that both sites have under the same name; it leads nowhere else. */
export async function createNetwork(lab: Laboratory, virsh: Virsh): Promise<void> {
  const file = lab.path('lan.xml');
  writeFileSync(file, `<network><name>${network}</name><bridge stp='off' delay='0'/></network>`);
  await virsh.run(['net-create', file]);
}

export type DiskFormat = 'raw' | 'qcow2';

/** Starts both VMs on disks of their own (default: raw); the image is made when there is none. */
export async function startTwoTier(
  lab: Laboratory,
  virsh: Virsh,
  { format = 'raw' }: { readonly format?: DiskFormat } = {},
): Promise<GuestImage> {
  const image = await guestImage(lab.processes);
  for (const tier of tiers) await startTier(lab, virsh, image, tier, format);
  return image;
}

/** Starts one VM on copies of its disks. */
export async function startTier(
  lab: Laboratory,
  virsh: Virsh,
  image: GuestImage,
  tier: Tier,
  format: DiskFormat = 'raw',
): Promise<void> {
  const files: string[] = [];
  for (const [index, disk] of tier.disks.entries()) {
    const file = lab.path('vm-disks', `${tier.name}-${target(index)}.${format}`);
    await lab.processes.run('qemu-img', ['convert', '-f', 'raw', '-O', format, guestDisk(image, disk), file]);
    files.push(file);
  }
  const xml = lab.path(`${tier.name}.xml`);
  writeFileSync(xml, domainXml(image, tier, { files, format }, lab.path(`${tier.name}-serial.log`)));
  await virsh.run(['define', xml]);
  await virsh.run(['start', tier.name]);
}

function target(index: number): string {
  return `vd${String.fromCodePoint(97 + index)}`;
}

function domainXml(
  { kernel, initrd }: GuestImage,
  tier: Tier,
  { files, format }: { files: readonly string[]; format: DiskFormat },
  log: string,
): string {
  const disks = files.map(
    (file, index) => `<disk type='file' device='disk'><driver name='qemu' type='${format}' cache='none'/>
      <source file='${file}'/><target dev='${target(index)}' bus='virtio'/></disk>`,
  );
  const words = `console=ttyS0 quiet mitigations=off panic=1 tm.role=${tier.name} tm.address=${tier.address}/24 tm.db=${dbAddress}`;
  return `<domain type='qemu'><name>${tier.name}</name><uuid>${tier.uuid}</uuid>
    <memory unit='MiB'>${memoryMiB}</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='pc'>hvm</type>
      <kernel>${kernel}</kernel><initrd>${initrd}</initrd><cmdline>${words}</cmdline></os>
    <features><acpi/></features><cpu mode='maximum'/><on_reboot>restart</on_reboot>
    <devices>${disks.join('')}
      <interface type='network'><mac address='${tier.mac}'/><source network='${network}'/><model type='virtio'/></interface>
      <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
      <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
      <serial type='file'><source path='${log}'/></serial><memballoon model='none'/>
    </devices></domain>`;
}

export interface Application {
  /** In the file of the client's disk. */
  readonly acknowledged: number;
  /** In the database. */
  readonly present: number;
  /** Acknowledged, and not in the database. */
  readonly missing: readonly number[];
}

/** Names or UUIDs of the two VMs. */
export interface Pair {
  readonly db: string;
  readonly client: string;
}

export const livePair: Pair = { db: 'db', client: 'client' };

const acknowledgedNow = '/data/acknowledged';
/** As the client's disk was when it booted: in a recovered VM, what the checkpoint has. */
const acknowledgedAtBoot = '/run/acknowledged';

/** Until numbers are committed and kept; how long that took, in ms. */
export async function waitApplication(virsh: Virsh, { client }: Pair = livePair, timeoutMs = 120_000): Promise<number> {
  const startedMs = performance.now();
  let first: number | undefined;
  await waitFor(
    `${client} has numbers acknowledged`,
    async () => {
      const count = (await acknowledgedNumbers(virsh, client)).length;
      first ??= count;
      return count > first;
    },
    { timeoutMs, everyMs: 200 },
  );
  return performance.now() - startedMs;
}

/**
 * PostgreSQL answers in the recovered VM, its tables and indexes pass pg_amcheck, and every number that the client's disk
 * had as acknowledged when it booted is compared with those in the database.
 */
export async function checkApplication(virsh: Virsh, { db, client }: Pair = livePair): Promise<Application> {
  const run = (domain: string, ...command: string[]): Promise<string> => guestExec(virsh, domain, command);
  await waitFor(`${db} answers`, () => run(db, '/opt/postgresql/pg_isready', '-h', '/run'), { timeoutMs: 120_000 });
  const acknowledged = parseNumbers(
    await waitFor(`${client} answers`, () => run(client, 'cat', acknowledgedAtBoot), { timeoutMs: 60_000 }),
  );
  await run(db, '/opt/postgresql/pg_amcheck', '-h', '/run', '-U', 'postgres', '--heapallindexed', 'postgres');
  return compareNumbers(acknowledged, await presentNumbers(virsh, db));
}

/** The numbers that the client has kept until now. */
export async function acknowledgedNumbers(virsh: Virsh, client: string): Promise<number[]> {
  return parseNumbers(await guestExec(virsh, client, ['cat', acknowledgedNow]));
}

/** What the client has now against the database now: none may be missing at any moment. */
export async function checkLive(virsh: Virsh, { db, client }: Pair = livePair): Promise<Application> {
  const acknowledged = await acknowledgedNumbers(virsh, client);
  return compareNumbers(acknowledged, await presentNumbers(virsh, db));
}

/**
 * The numbers in the database; with `beforeMs` (since the Unix epoch) those that were put there before: a recovered client
 * gives the numbers that were lost again.
 */
export async function presentNumbers(virsh: Virsh, db: string, beforeMs?: number): Promise<number[]> {
  const condition = beforeMs === undefined ? '' : ` where at < to_timestamp(${beforeMs / 1000})`;
  const query = `select number from numbers${condition}`;
  return parseNumbers(
    await guestExec(virsh, db, ['/opt/postgresql/psql', '-h', '/run', '-U', 'postgres', '-XAtc', query, 'postgres']),
  );
}

/** Acknowledged numbers against those of a database. */
/** The file that the VM has as that disk. */
export async function diskFile(virsh: Virsh, vm: string, target: string): Promise<string> {
  const disks = (await virsh.run(['dumpxml', vm])).split('<disk ');
  const disk = disks.find((each) => each.includes(`<target dev='${target}'`)) ?? '';
  const file = /<source file='([^']*)'/.exec(disk)?.[1];
  if (file === undefined) throw new Error(`${vm} has no file as ${target}`);
  return file;
}

export function compareNumbers(acknowledged: readonly number[], present: readonly number[]): Application {
  const there = new Set(present);
  const missing = acknowledged.filter((number) => !there.has(number));
  return { acknowledged: acknowledged.length, present: present.length, missing };
}

/** One number a line. */
export function parseNumbers(text: string): number[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      if (!/^\d{1,15}$/.test(line)) throw new Error(`not a number: ${line.slice(0, 80)}`);
      return Number(line);
    });
}
