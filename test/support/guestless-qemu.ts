/**
 * A VM without a guest: real QEMU with virtio disks and two monitors, one for the agent, one for the test, which writes as a
 * guest would (`qemu-io` on the device: through the mirror, when one is attached).
 */
import { join } from 'node:path';
import { QmpSocket } from '../../agent/src/hypervisor/qmp-socket.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { ManagedProcess, Processes } from './processes.js';
import { waitFor } from './wait.js';

export interface GuestlessDisk {
  /** Id of the device: its target for the agent. */
  readonly id: string;
  readonly file: string;
  readonly format?: 'raw' | 'qcow2';
}

export class GuestlessQemu {
  private constructor(
    readonly process: ManagedProcess,
    /** Of the agent. */
    readonly monitorSocket: string,
    readonly monitor: QmpSocket,
  ) {}

  static async start(
    processes: Processes,
    directory: string,
    name: string,
    disks: readonly GuestlessDisk[],
  ): Promise<GuestlessQemu> {
    const [agents, own] = [join(directory, `${name}.qmp`), join(directory, `${name}-test.qmp`)];
    const child = processes.start(name, 'qemu-system-x86_64', [
      ...['-nodefaults', '-display', 'none', '-machine', 'q35,accel=tcg', '-S', '-name', name, '-m', '32'],
      ...['-device', 'pcie-root-port,id=hot'],
      ...disks.flatMap(({ id, file, format = 'raw' }) => [
        ...['-blockdev', `driver=${format},node-name=node-${id},discard=unmap,file.driver=file,file.filename=${file}`],
        ...['-device', `virtio-blk-pci,id=${id},drive=node-${id},share-rw=on`],
      ]),
      ...['-qmp', `unix:${agents},server=on,wait=off`, '-qmp', `unix:${own},server=on,wait=off`],
    ]);
    const monitor = await waitFor(`monitor of ${name}`, () => {
      child.failIfExited();
      return QmpSocket.open(own, nodeClock);
    });
    return new GuestlessQemu(child, agents, monitor);
  }

  /** As the guest: resolves when it would have been told that the write is done. */
  async write(disk: string, pattern: number, offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.io(disk, `write -P ${pattern} ${offsetBytes} ${lengthBytes}`);
  }

  async io(disk: string, command: string): Promise<void> {
    const line = `qemu-io -d /machine/peripheral/${disk}/virtio-backend "${command}"`;
    const said = String(await this.monitor.execute('human-monitor-command', { 'command-line': line }, 60_000));
    if (/fail|error|not found/i.test(said)) throw new Error(`${command}: ${said}`);
  }

  async jobs(): Promise<{ readonly device: string }[]> {
    return (await this.monitor.execute('query-block-jobs')) as { device: string }[];
  }

  async end(): Promise<void> {
    this.monitor.close();
    await this.process.kill('SIGKILL');
  }
}
