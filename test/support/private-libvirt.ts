/**
 * A libvirt daemon of a test's own, in a mount namespace with directories of its own: what it defines is seen by nobody
 * else, and everything ends with it. Needs root; QEMU runs as root, emulated.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Virsh } from '../../agent/src/hypervisor/virsh.js';
import type { ManagedProcess, Processes } from './processes.js';
import { waitFor } from './wait.js';

/** Bound over the host's directories of the same name. */
const directories = { run: '/run', lib: '/var/lib', etc: '/etc', log: '/var/log', cache: '/var/cache' } as const;

const qemuConf = `security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
`;

export class PrivateLibvirt implements AsyncDisposable {
  readonly virsh: Virsh;
  #process: ManagedProcess | undefined;

  private constructor(
    private readonly processes: Processes,
    private readonly directory: string,
    private readonly name: string,
  ) {
    this.virsh = new Virsh({ uri: this.uri });
  }

  /** `directory`: short, its own; made when missing. */
  static async start(processes: Processes, directory: string, name = 'libvirt'): Promise<PrivateLibvirt> {
    const libvirt = new PrivateLibvirt(processes, directory, name);
    for (const [own, parent] of Object.entries(directories)) {
      mkdirSync(join(directory, own), { recursive: true });
      mkdirSync(join(parent, 'libvirt'), { recursive: true });
    }
    writeFileSync(join(directory, 'etc', 'qemu.conf'), qemuConf);
    writeFileSync(join(directory, 'etc', 'libvirtd.conf'), `host_uuid = "${randomUUID()}"\nauth_unix_rw = "none"\n`);
    await libvirt.startDaemon();
    return libvirt;
  }

  get socketPath(): string {
    return join(this.directory, 'run', 'libvirt-sock');
  }

  get uri(): string {
    return `qemu+unix:///system?socket=${this.socketPath}`;
  }

  async startDaemon(): Promise<void> {
    const binds = Object.entries(directories).map(
      ([own, parent]) => `mount --bind ${join(this.directory, own)} ${parent}/libvirt`,
    );
    const script = [
      'mount --make-rprivate /',
      ...binds,
      `exec libvirtd --pid-file ${join(this.directory, 'libvirtd.pid')}`,
    ].join(' && ');
    const child = this.processes.start(this.name, 'unshare', ['--mount', 'sh', '-c', script]);
    this.#process = child;
    await waitFor(`${this.name} answers`, async () => {
      child.failIfExited();
      return existsSync(this.socketPath) && (await this.virsh.run(['version'])) !== '';
    });
  }

  /** kill -9 of the daemon; its VMs go on. */
  async killDaemon(): Promise<void> {
    await this.#process?.kill('SIGKILL');
  }

  /** Process id of a running VM's QEMU. */
  qemuPid(name: string): number {
    return Number(readFileSync(join(this.directory, 'run', 'qemu', `${name}.pid`), 'utf8'));
  }

  async list(...flags: string[]): Promise<string[]> {
    return (await this.virsh.run(['list', '--name', ...flags])).split('\n').filter((line) => line !== '');
  }

  /** Ends every VM and network of this daemon, then the daemon. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#process?.isRunning !== true) await this.startDaemon();
      for (const name of await this.list()) await this.virsh.run(['destroy', name]);
      for (const name of (await this.virsh.run(['net-list', '--name'])).split('\n'))
        if (name.trim() !== '') await this.virsh.run(['net-destroy', name.trim()]);
    } finally {
      for (const file of pidFiles(join(this.directory, 'run', 'qemu'))) kill(Number(readFileSync(file, 'utf8')));
      await this.#process?.stop();
    }
  }
}

function pidFiles(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .filter((name) => name.endsWith('.pid'))
    .map((name) => join(directory, name));
}

function kill(pid: number): void {
  try {
    if (pid > 1) process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}
