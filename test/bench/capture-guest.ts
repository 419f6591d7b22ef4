/**
 * A real guest whose disks are captured in three ways at once: for each contender it has a disk for fio, and PostgreSQL's
 * data and write-ahead log. The agent attaches its three by itself; the mirrors to qemu-nbd are made by the same commands.
 */
import { statSync, writeFileSync } from 'node:fs';
import { fioCommand, makeFioDisk } from '../support/fio-disk.js';
import { guestExec } from '../support/guest-agent.js';
import { guestDisk, guestImage, type GuestImage } from '../support/guest-image.js';
import type { Laboratory } from '../support/laboratory.js';
import type { PrivateLibvirt } from '../support/private-libvirt.js';
import { makeSparseFile, startQemuNbd } from '../support/tools.js';
import { waitFor } from '../support/wait.js';
import { contenders, type Contender } from './capture-rounds.js';
import { MiB } from './statistics.js';

export const vm = 'bench';
export const loadBytes = 512 * MiB;
const parts = ['load', 'data', 'wal'] as const;
type Part = (typeof parts)[number];

interface GuestDisk {
  readonly target: string;
  readonly file: string;
  readonly sizeBytes: number;
}

export class CaptureGuest {
  private constructor(
    private readonly lab: Laboratory,
    private readonly libvirt: PrivateLibvirt,
    private readonly disks: Readonly<Record<Contender, Readonly<Record<Part, GuestDisk>>>>,
  ) {}

  /** Resolves when the guest answers, with a PostgreSQL on the disks of each contender. Nothing is captured yet. */
  static async start(lab: Laboratory, libvirt: PrivateLibvirt): Promise<CaptureGuest> {
    const image = await guestImage(lab.processes);
    const root = lab.path('vm', 'root.raw');
    await copy(lab, guestDisk(image, 'root'), root);
    const files = [root, await makeFioDisk(lab.processes, lab.path('vm'))];
    const disks = {} as Record<Contender, Record<Part, GuestDisk>>;
    for (const contender of contenders) {
      const own = {} as Record<Part, GuestDisk>;
      for (const part of parts) {
        const file = lab.path('vm', `${contender}-${part}.raw`);
        if (part === 'load') makeSparseFile(file, loadBytes);
        else await copy(lab, guestDisk(image, part), file);
        own[part] = { target: targetName(files.length), file, sizeBytes: statSync(file).size };
        files.push(file);
      }
      disks[contender] = own;
    }
    const xml = lab.path('vm', 'bench.xml');
    writeFileSync(xml, domainXml(image, files, lab.path('vm', 'serial.log')));
    await libvirt.virsh.run(['create', xml]);
    const guest = new CaptureGuest(lab, libvirt, disks);
    await waitFor('the guest answers', () => guest.run('mkdir -p /run/fio && mount -o ro /dev/vdb /run/fio'), {
      timeoutMs: 180_000,
    });
    for (const contender of contenders) await guest.startPostgres(contender);
    return guest;
  }

  /** Names and sizes of the contender's disks within the VM. */
  targets(contender: Contender): GuestDisk[] {
    return parts.map((part) => this.disks[contender][part]);
  }

  /** As the agent attaches a disk (agent/src/attach/mirror-job.ts), with a qemu-nbd for each disk. */
  async mirrorToQemuNbd(): Promise<void> {
    const nodes = (await this.qmp('query-block')) as { qdev?: string; inserted?: { 'node-name': string } }[];
    for (const { target, sizeBytes } of this.targets('qemu-nbd')) {
      const device = nodes.find(({ qdev }) => qdev?.includes(`/virtio-disk${target.charCodeAt(2) - 97}/`) === true);
      const file = makeSparseFile(this.lab.path('copies', `${target}.raw`), sizeBytes);
      const socket = this.lab.path('copies', `${target}.sock`);
      await startQemuNbd(this.lab.processes, { name: `qemu-nbd-${target}`, file, socket });
      await this.qmp('blockdev-add', {
        ...{ driver: 'nbd', 'node-name': `copy-${target}`, export: '', discard: 'unmap', 'reconnect-delay': 0 },
        server: { type: 'unix', path: socket },
      });
      await this.qmp('blockdev-mirror', {
        ...{ 'job-id': `copy-${target}`, device: device!.inserted!['node-name'], target: `copy-${target}` },
        ...{ sync: 'none', 'copy-mode': 'write-blocking', 'on-target-error': 'report', 'auto-dismiss': true },
      });
    }
    await waitFor('the mirrors to qemu-nbd are ready', async () => {
      const jobs = (await this.qmp('query-block-jobs')) as { device: string; ready: boolean }[];
      return jobs.filter(({ device, ready }) => device.startsWith('copy-') && ready).length === parts.length;
    });
  }

  /** fio on the contender's disk; prints JSON. */
  fio(contender: Contender, args: readonly string[]): Promise<string> {
    const target = `--filename=/dev/${this.disks[contender].load.target}`;
    return this.exec(fioCommand('/run/fio', [...args.slice(0, 1), target, ...args.slice(1)]));
  }

  /** Transactions a second, 4 clients; ends with a checkpoint, so that nothing of it is left to the next turn. */
  async pgbench(contender: Contender, seconds: number): Promise<number> {
    const at = `-h /run -p ${port(contender)} -U postgres`;
    const said = await this.run(
      `/opt/postgresql/pgbench -n -c 4 -T ${seconds} ${at} postgres && /opt/postgresql/psql ${at} -c checkpoint postgres`,
    );
    return Number(/^tps = ([\d.]+)/m.exec(said)?.[1] ?? Number.NaN);
  }

  private async startPostgres(contender: Contender): Promise<void> {
    const { data, wal } = this.disks[contender];
    const place = `/run/${contender}`;
    const at = `-h /run -p ${port(contender)} -U postgres`;
    await this.run(`set -e
      mkdir -p ${place}/data ${place}/wal
      mount -o noatime /dev/${data.target} ${place}/data
      mount -o noatime /dev/${wal.target} ${place}/wal
      ln -sfn ${place}/wal/log ${place}/data/cluster/pg_wal
      setpriv --reuid=postgres --regid=postgres --init-groups /opt/postgresql/postgres -D ${place}/data/cluster \\
        -p ${port(contender)} >/run/${contender}.log 2>&1 </dev/null &
      until /opt/postgresql/pg_isready -q ${at}; do sleep 0.2; done
      /opt/postgresql/pgbench -i -q -s 1 ${at} postgres`);
  }

  private run(script: string): Promise<string> {
    return this.exec(['/bin/bash', '-c', script]);
  }

  private exec(command: readonly string[]): Promise<string> {
    return guestExec(this.libvirt.virsh, vm, command, { timeoutMs: 300_000 });
  }

  private async qmp(execute: string, args: object = {}): Promise<unknown> {
    const request = JSON.stringify({ execute, arguments: args });
    const answer = JSON.parse(await this.libvirt.virsh.run(['qemu-monitor-command', vm, request])) as {
      return?: unknown;
      error?: { desc: string };
    };
    if (answer.error !== undefined) throw new Error(`QMP ${execute}: ${answer.error.desc}`);
    return answer.return;
  }
}

function port(contender: Contender): number {
  return 5432 + contenders.indexOf(contender);
}

function targetName(index: number): string {
  return `vd${String.fromCodePoint(97 + index)}`;
}

async function copy(lab: Laboratory, from: string, to: string): Promise<void> {
  await lab.processes.run('cp', ['--sparse=always', from, to]);
}

function domainXml({ kernel, initrd }: GuestImage, files: readonly string[], log: string): string {
  const disks = files.map(
    (file, index) => `<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
      <source file='${file}'/><target dev='${targetName(index)}' bus='virtio'/></disk>`,
  );
  return `<domain type='qemu'><name>${vm}</name>
    <memory unit='MiB'>512</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type><kernel>${kernel}</kernel><initrd>${initrd}</initrd>
      <cmdline>console=ttyS0 quiet mitigations=off panic=1 tm.role=bench</cmdline></os>
    <features><acpi/></features><cpu mode='maximum'/>
    <devices>${disks.join('')}
      <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
      <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
      <serial type='file'><source path='${log}'/></serial><memballoon model='none'/>
    </devices></domain>`;
}
