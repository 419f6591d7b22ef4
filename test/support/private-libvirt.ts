/**
 * A libvirt daemon of a test's own, in a mount namespace with directories of its own: what it defines is seen by nobody
 * else, and all of it (VMs, networks) ends with its owner, also when that is killed. Needs root; QEMU runs as root, emulated.
 * The host's network namespace is shared, since an agent looks at bridges there; libvirt names each bridge anew.
 */
import { randomUUID } from 'node:crypto';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Virsh } from '../../agent/src/hypervisor/virsh.js';
import { repositoryRoot } from './paths.js';
import type { ManagedProcess, Processes } from './processes.js';
import { waitFor } from './wait.js';

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
  #daemon: ManagedProcess | undefined;

  private constructor(
    private readonly processes: Processes,
    private readonly directory: string,
    private readonly name: string,
    private readonly place: ChildProcess,
  ) {
    this.virsh = new Virsh({ uri: this.uri });
  }

  /** `directory`: short, its own; made when missing. */
  static async start(processes: Processes, directory: string, name = 'libvirt'): Promise<PrivateLibvirt> {
    mkdirSync(join(directory, 'etc'), { recursive: true });
    writeFileSync(join(directory, 'etc', 'qemu.conf'), qemuConf);
    writeFileSync(join(directory, 'etc', 'libvirtd.conf'), `host_uuid = "${randomUUID()}"\nauth_unix_rw = "none"\n`);
    const libvirt = new PrivateLibvirt(processes, directory, name, await startPlace(directory));
    try {
      await libvirt.startDaemon();
    } catch (error) {
      await libvirt[Symbol.asyncDispose]();
      throw error;
    }
    return libvirt;
  }

  get socketPath(): string {
    return join(this.directory, 'run', 'libvirt-sock');
  }

  get uri(): string {
    return `qemu+unix:///system?socket=${this.socketPath}`;
  }

  async startDaemon(): Promise<void> {
    const daemon = ['libvirtd', '--pid-file', join(this.directory, 'libvirtd.pid')];
    const child = this.processes.start(this.name, 'nsenter', [`--mount=/proc/${this.place.pid}/ns/mnt`, ...daemon]);
    this.#daemon = child;
    await waitFor(`${this.name} answers`, async () => {
      child.failIfExited();
      return existsSync(this.socketPath) && (await this.virsh.run(['version'])) !== '';
    });
  }

  /** kill -9 of the daemon; its VMs go on. */
  async killDaemon(): Promise<void> {
    await this.#daemon?.kill('SIGKILL');
  }

  /** Process id of a running VM's QEMU. */
  qemuPid(name: string): number {
    return Number(readFileSync(join(this.directory, 'run', 'qemu', `${name}.pid`), 'utf8'));
  }

  async list(...flags: string[]): Promise<string[]> {
    return (await this.virsh.run(['list', '--name', ...flags])).split('\n').filter((line) => line !== '');
  }

  /** Ends the daemon, every VM and every network of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon?.stop();
    const { place } = this;
    if (place.exitCode !== null || place.signalCode !== null) return;
    const ended = once(place, 'exit');
    place.stdin?.end();
    await ended;
  }
}

/** The process that holds the namespace; it ends, and ends all in it, when its standard input does. */
async function startPlace(directory: string): Promise<ChildProcess> {
  const script = join(repositoryRoot(), 'test', 'support', 'private-libvirt.sh');
  const log = openSync(join(directory, 'place.log'), 'a');
  const place = spawn('unshare', ['--mount', 'bash', script, directory], {
    stdio: ['pipe', 'pipe', log],
    detached: true, // A signal from the terminal is for its owner.
  });
  closeSync(log);
  const [said] = (await Promise.race([once(place.stdout!, 'data'), once(place.stdout!, 'end')])) as [unknown];
  if (said === undefined)
    throw new Error(`no place for libvirt: ${readFileSync(join(directory, 'place.log'), 'utf8')}`);
  return place;
}
