/**
 * QEMU without a guest: one raw disk, a QMP monitor, and the disk as an NBD export through which a test writes as a guest
 * would (its requests take the way of a virtio disk: through the mirror filter, when one is attached).
 */
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { ManagedProcess, Processes } from './processes.js';
import { waitFor } from './wait.js';

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class BareQemu {
  #monitor: Socket | undefined;
  #lastId = 0;
  readonly #waiting = new Map<number, Waiting>();

  private constructor(
    readonly process: ManagedProcess,
    private readonly directory: string,
  ) {}

  /** `file`: raw. The node of the disk is `disk`, its export is {@link guestUri}. */
  static async start(processes: Processes, directory: string, name: string, file: string): Promise<BareQemu> {
    const monitor = join(directory, `${name}.qmp`);
    const child = processes.start(name, 'qemu-system-x86_64', [
      ...['-nodefaults', '-display', 'none', '-machine', 'none', '-S', '-name', name],
      ...['-blockdev', `driver=raw,node-name=disk,file.driver=file,file.filename=${file}`],
      ...['-qmp', `unix:${monitor},server=on,wait=off`],
    ]);
    const qemu = new BareQemu(child, directory);
    await waitFor(`monitor of ${name}`, () => {
      child.failIfExited();
      return qemu.#connect(monitor);
    });
    await qemu.execute('qmp_capabilities');
    await qemu.execute('nbd-server-start', { addr: { type: 'unix', data: { path: qemu.guestSocket } } });
    await qemu.execute('block-export-add', {
      ...{ type: 'nbd', id: 'guest', name: 'guest', 'node-name': 'disk', writable: true },
    });
    return qemu;
  }

  get guestSocket(): string {
    return join(this.directory, `${this.process.name}.nbd`);
  }

  get guestUri(): string {
    return `nbd+unix:///guest?socket=${this.guestSocket}`;
  }

  /** Mirrors every write to an NBD export from now on, as the agent attaches a disk. */
  async mirror(socketPath: string, exportName: string): Promise<void> {
    await this.execute('blockdev-add', {
      ...{ driver: 'nbd', 'node-name': 'target', export: exportName, 'reconnect-delay': 0 },
      server: { type: 'unix', path: socketPath },
    });
    await this.execute('blockdev-mirror', {
      ...{ 'job-id': 'capture', device: 'disk', target: 'target', sync: 'none', 'copy-mode': 'write-blocking' },
      ...{ 'on-target-error': 'report', 'auto-dismiss': true },
    });
    await waitFor('the mirror is ready', async () => (await this.jobs()).some(({ ready }) => ready));
    await this.execute('block-job-pause', { device: 'capture' });
    await waitFor('the mirror stands by', async () => (await this.jobs()).some(({ status }) => status === 'standby'));
  }

  /** Removes a mirror whose target is gone. */
  async forgetMirror(): Promise<void> {
    await this.execute('transaction', { actions: [] });
    await this.execute('block-job-resume', { device: 'capture' });
    await waitFor('the mirror has ended', async () => (await this.jobs()).length === 0);
    await this.execute('blockdev-del', { 'node-name': 'target' });
  }

  async jobs(): Promise<{ readonly device: string; readonly ready: boolean; readonly status: string }[]> {
    return (await this.execute('query-block-jobs')) as { device: string; ready: boolean; status: string }[];
  }

  /** Rejects with QEMU's own words, or after 30 s. */
  execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`QMP ${command}: no answer in 30 s`)), 30_000);
      this.#waiting.set(id, {
        resolve: (value) => (clearTimeout(timer), resolve(value)),
        reject: (error) => (clearTimeout(timer), reject(error)),
      });
      this.#monitor?.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  async end(): Promise<void> {
    this.#monitor?.destroy();
    await this.process.kill('SIGKILL');
  }

  #connect(path: string): Promise<true> {
    return new Promise((resolve, reject) => {
      const socket = connect({ path }, () => {
        this.#monitor = socket;
        resolve(true);
      });
      socket.once('error', reject);
      let rest = '';
      socket.setEncoding('utf8').on('data', (text: string) => {
        const lines = (rest + text).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) this.#received(JSON.parse(line) as Record<string, unknown>);
      });
    });
  }

  #received(message: Record<string, unknown>): void {
    const waiting = this.#waiting.get(message['id'] as number);
    if (waiting === undefined) return;
    this.#waiting.delete(message['id'] as number);
    const error = message['error'] as { desc: string } | undefined;
    if (error === undefined) waiting.resolve(message['return']);
    else waiting.reject(new Error(error.desc));
  }
}
