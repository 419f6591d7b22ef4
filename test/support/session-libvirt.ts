/**
 * The libvirt of a person who is not root (`qemu:///session`): daemon, VMs and agents run as user 1000 of a user namespace,
 * without rights over the host. The daemon's process namespace ends with it, and with it every VM.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Virsh } from '../../agent/src/hypervisor/virsh.js';
import type { ManagedProcess, Processes } from './processes.js';
import { waitFor } from './wait.js';

const asUser = ['unshare', '--user', '--map-user=1000', '--map-group=1000', '--'];

export class SessionLibvirt implements AsyncDisposable {
  /** As that user. */
  readonly virsh: Virsh;

  private constructor(
    readonly env: Readonly<Record<string, string>>,
    private readonly daemon: ManagedProcess,
  ) {
    const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    this.virsh = new Virsh({ uri: this.uri, command: ['env', ...variables, ...asUser, 'virsh'] });
  }

  /** `directory`: short, its own; made when missing. */
  static async start(processes: Processes, directory: string): Promise<SessionLibvirt> {
    const place = (name: string): string => {
      mkdirSync(join(directory, name), { recursive: true });
      return join(directory, name);
    };
    const env = {
      ...{ HOME: place('h'), XDG_RUNTIME_DIR: place('r'), XDG_CONFIG_HOME: place('c') },
      ...{ XDG_CACHE_HOME: place('k'), XDG_DATA_HOME: place('d') },
      // A virsh that finds no daemon starts none of its own, which nobody would end.
      LIBVIRT_AUTOSTART: '0',
    };
    writeFileSync(join(place('c/libvirt'), 'qemu.conf'), 'stdio_handler = "file"\n');
    // The shell reaps VMs that ended; libvirt waits for that.
    const inside = ['bash', '-c', `${asUser.join(' ')} libvirtd & wait`];
    const daemon = processes.start(
      'session',
      'unshare',
      ['--pid', '--fork', '--kill-child', '--mount-proc', '--', ...inside],
      { env },
    );
    const libvirt = new SessionLibvirt(env, daemon);
    await waitFor('the session daemon answers', async () => {
      daemon.failIfExited();
      const socket = join(env.XDG_RUNTIME_DIR, 'libvirt', 'libvirt-sock');
      return existsSync(socket) && (await libvirt.virsh.run(['version'])) !== '';
    });
    return libvirt;
  }

  readonly uri = 'qemu:///session';

  /** For an agent: what it runs in, and how it finds its session. */
  get user(): { readonly wrapper: readonly string[]; readonly env: Readonly<Record<string, string>> } {
    return { wrapper: [...asUser, 'setpriv', '--pdeathsig', 'KILL', '--'], env: this.env };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon.kill('SIGKILL');
  }
}
