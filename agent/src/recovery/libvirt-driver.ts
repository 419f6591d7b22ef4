/** Recovery on libvirt, by virsh. */
import { randomUUID } from 'node:crypto';
import { open, readdir, unlink } from 'node:fs/promises';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { TidemarkError, isTidemarkError } from '../core/errors.js';
import type { Virsh, VirshCall } from '../hypervisor/virsh.js';
import type { CopyState, NetworkFacts, OwnedVm, RecoveryDriver, VmState } from './driver.js';
import { ownerNamespace, parseMark } from './owner-mark.js';
import { attributeOf, elementOf, elementsOf, parseXml, printXml } from '../hypervisor/xml-tree.js';

/** Starting a VM opens its disks over NBD. */
const startTimeoutMs = 60_000;

const states: Readonly<Record<string, VmState>> = {
  running: 'running',
  idle: 'running',
  paused: 'paused',
  'shut off': 'off',
  crashed: 'off',
};

export interface LibvirtDriverOptions {
  readonly name: string;
  /** This agent's name: marks of others are not ours. */
  readonly agent: string;
  readonly virsh: Virsh;
}

export class LibvirtDriver implements RecoveryDriver {
  readonly name: string;
  private readonly agentName: string;
  private readonly virsh: Virsh;

  constructor({ name, agent, virsh }: LibvirtDriverOptions) {
    this.name = name;
    this.agentName = agent;
    this.virsh = virsh;
  }

  async ping(): Promise<void> {
    try {
      await this.virsh.run(['uri'], { timeoutMs: 5000 });
    } catch (cause) {
      throw new TidemarkError(
        'hypervisor-unreachable',
        `Hypervisor ${this.name} (${this.virsh.uri}): ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  async define(xml: string): Promise<void> {
    await this.withFile(xml, (file) => this.virsh.run(['define', file]));
  }

  async start(uuid: string): Promise<void> {
    const state = await this.state(uuid);
    if (state === 'running') return;
    if (state === 'paused') await this.virsh.run(['resume', uuid]);
    else await this.virsh.run(['start', uuid], { timeoutMs: startTimeoutMs });
  }

  async stop(uuid: string): Promise<void> {
    const state = await this.state(uuid);
    if (state === 'absent' || state === 'off') return;
    await this.orGone(uuid, ['destroy', uuid], ['absent', 'off']);
  }

  async remove(uuid: string): Promise<void> {
    await this.stop(uuid);
    if ((await this.state(uuid)) === 'absent') return;
    const flags = ['--nvram', '--managed-save', '--snapshots-metadata', '--checkpoints-metadata'];
    await this.orGone(uuid, ['undefine', uuid, ...flags], ['absent']);
  }

  async state(uuid: string): Promise<VmState> {
    const known = lines(await this.virsh.run(['list', '--all', '--uuid']));
    if (!known.includes(uuid.toLowerCase())) return 'absent';
    try {
      const text = (await this.virsh.run(['domstate', uuid])).trim();
      return states[text] ?? 'other';
    } catch (error) {
      if (lines(await this.virsh.run(['list', '--all', '--uuid'])).includes(uuid.toLowerCase())) throw error;
      return 'absent';
    }
  }

  async stoppedByError(): Promise<string[]> {
    const stopped: string[] = [];
    for (const uuid of lines(await this.virsh.run(['list', '--state-paused', '--uuid'])))
      if (/I\/O error/.test((await this.quietly(['domstate', uuid, '--reason'])) ?? '')) stopped.push(uuid);
    return stopped;
  }

  async disown(uuid: string): Promise<void> {
    const alive = (await this.state(uuid)) === 'running';
    const flags = alive ? ['--live', '--config'] : ['--config'];
    await this.quietly(['metadata', uuid, '--uri', ownerNamespace, '--remove', ...flags]);
  }

  async owned(group: string): Promise<OwnedVm[]> {
    const found: OwnedVm[] = [];
    for (const uuid of lines(await this.virsh.run(['list', '--all', '--uuid']))) {
      const text = await this.quietly(['metadata', uuid, '--uri', ownerNamespace]);
      const mark = text === undefined || text.trim() === '' ? undefined : parseMark(text);
      if (mark?.agent === this.agentName && mark.group === group) found.push({ uuid, mark });
    }
    return found;
  }

  async definition(uuid: string, which: 'live' | 'saved'): Promise<string> {
    const text = await this.quietly(['dumpxml', uuid, ...(which === 'saved' ? ['--inactive'] : [])]);
    if (text === undefined) throw new TidemarkError('vm-unknown', `Hypervisor ${this.name} has no VM ${uuid}.`);
    return text;
  }

  async taps(uuid: string): Promise<string[]> {
    const domain = parseXml(await this.definition(uuid, 'live'), 'domain', `VM ${uuid}`);
    const devices = elementOf(domain, 'devices');
    const nics = devices === undefined ? [] : elementsOf(devices, 'interface');
    return nics.flatMap((nic) => attributeOf(nic, ['target'], 'dev') ?? []);
  }

  async agent(
    uuid: string,
    command: string,
    args: Readonly<Record<string, unknown>>,
    timeoutMs: number,
  ): Promise<unknown> {
    const request = JSON.stringify({
      execute: command,
      ...(Object.keys(args).length === 0 ? {} : { arguments: args }),
    });
    const seconds = Math.max(1, Math.ceil(timeoutMs / 1000));
    try {
      const text = await this.virsh.run(['qemu-agent-command', uuid, request, '--timeout', String(seconds)], {
        timeoutMs: timeoutMs + 2000,
      });
      return (JSON.parse(text) as { return?: unknown }).return;
    } catch (cause) {
      throw new TidemarkError(
        'guest-agent',
        `The guest agent does not answer ${command}: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  async hasNetwork(name: string): Promise<boolean> {
    const bridge = /^bridge:(.*)$/.exec(name)?.[1];
    if (bridge !== undefined) return (await ports(bridge)) !== undefined;
    return (await this.activeNetworks()).includes(name);
  }

  async createIsolatedNetwork(name: string): Promise<void> {
    if ((await this.activeNetworks()).includes(name)) return;
    // No <forward> and no <ip>: nothing is routed, and the host has no address in it.
    const xml = `<network><name>${name}</name><bridge stp='off' delay='0'/></network>`;
    try {
      await this.withFile(xml, (file) => this.virsh.run(['net-create', file]));
    } catch (cause) {
      if (!isTidemarkError(cause, 'hypervisor-failed') || !cause.message.includes('Operation not permitted'))
        throw cause;
      throw new TidemarkError('network-refused', `Hypervisor ${this.name} may not make a network: ${cause.message}`, {
        ...{ cause, path: 'recovery.testNetwork' },
      });
    }
  }

  async networkFacts(name: string): Promise<NetworkFacts> {
    const plain = /^bridge:(.*)$/.exec(name)?.[1];
    if (plain !== undefined)
      return { bridge: plain, forward: 'none', hostAddresses: addressesOf(plain), ports: (await ports(plain)) ?? [] };
    const network = parseXml(await this.virsh.run(['net-dumpxml', name]), 'network', `Network ${name}`);
    const bridge = attributeOf(network, ['bridge'], 'name') ?? '';
    const forward = elementOf(network, 'forward');
    return {
      bridge,
      forward: forward === undefined ? 'none' : (forward.getAttribute('mode') ?? 'nat'),
      hostAddresses: [
        ...new Set([
          ...elementsOf(network, 'ip').map((ip) => ip.getAttribute('address') ?? ''),
          ...addressesOf(bridge),
        ]),
      ],
      ports: (await ports(bridge)) ?? [],
    };
  }

  async removeNetwork(name: string): Promise<void> {
    if (!(await this.activeNetworks()).includes(name)) return;
    try {
      await this.virsh.run(['net-destroy', name]);
    } catch (error) {
      if ((await this.activeNetworks()).includes(name)) throw error;
    }
  }

  async networks(prefix: string): Promise<string[]> {
    return (await this.activeNetworks()).filter((name) => name.startsWith(prefix));
  }

  async startCopy(uuid: string, target: string, path: string): Promise<void> {
    const disk = parseXml(
      `<disk type='file'><driver name='qemu' type='raw' cache='none' discard='unmap'/><source/></disk>`,
      'disk',
      'A copy',
    );
    elementOf(disk, 'source')!.setAttribute('file', path);
    await this.withFile(printXml(disk), (file) =>
      this.virsh.run(['blockcopy', uuid, target, '--xml', file, '--synchronous-writes', '--transient-job'], {
        timeoutMs: startTimeoutMs,
      }),
    );
  }

  async copyState(uuid: string, target: string): Promise<CopyState> {
    const domain = parseXml(await this.definition(uuid, 'live'), 'domain', `VM ${uuid}`);
    const disks = elementsOf(elementOf(domain, 'devices') ?? domain, 'disk');
    const disk = disks.find((element) => attributeOf(element, ['target'], 'dev') === target);
    const mirror = disk === undefined ? undefined : elementOf(disk, 'mirror');
    if (mirror === undefined) return { state: 'none', doneBytes: 0, totalBytes: 0 };
    const info = (await this.quietly(['blockjob', uuid, target, '--info', '--raw'])) ?? '';
    const number = (name: string): number => Number(new RegExp(`${name}=(\\d+)`).exec(info)?.[1] ?? 0);
    return {
      state: mirror.getAttribute('ready') === 'yes' ? 'ready' : 'copying',
      doneBytes: number('cur'),
      totalBytes: number('end'),
    };
  }

  async pivotCopy(uuid: string, target: string): Promise<void> {
    await this.virsh.run(['blockjob', uuid, target, '--pivot'], { timeoutMs: startTimeoutMs });
  }

  async abortCopy(uuid: string, target: string): Promise<void> {
    const state = await this.state(uuid);
    if (state === 'absent' || state === 'off' || (await this.copyState(uuid, target)).state === 'none') return;
    // QEMU dies of a copy that is aborted while writes are under way (see attach/mirror-job.ts), so there are none.
    const wasRunning = state === 'running';
    if (wasRunning) await this.quietly(['suspend', uuid]);
    try {
      await this.quietly(['blockjob', uuid, target, '--abort'], { timeoutMs: startTimeoutMs });
    } finally {
      if (wasRunning) await this.start(uuid);
    }
  }

  private async activeNetworks(): Promise<string[]> {
    return lines(await this.virsh.run(['net-list', '--name']));
  }

  /** Undefined when virsh says no; the daemon itself must answer. */
  private async quietly(args: readonly string[], call: VirshCall = {}): Promise<string | undefined> {
    try {
      return await this.virsh.run(args, call);
    } catch (error) {
      if (isTidemarkError(error, 'timed-out')) throw error;
      await this.ping();
      return undefined;
    }
  }

  /** A VM that went by itself meanwhile is as good. */
  private async orGone(uuid: string, args: readonly string[], wanted: readonly VmState[]): Promise<void> {
    try {
      await this.virsh.run(args, { timeoutMs: startTimeoutMs });
    } catch (error) {
      if (!wanted.includes(await this.state(uuid))) throw error;
    }
  }

  /** A file without a name, which nothing leaves behind. */
  private async withFile<T>(text: string, use: (file: string) => Promise<T>): Promise<T> {
    const name = join(tmpdir(), `tidemark-${randomUUID()}.xml`);
    const file = await open(name, 'wx', 0o600);
    try {
      await unlink(name);
      await file.writeFile(text);
      return await use(`/proc/${process.pid}/fd/${file.fd}`);
    } finally {
      await file.close();
    }
  }
}

function lines(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

/** Addresses of the host in a network of its own; link-local ones lead nowhere. */
function addressesOf(bridge: string): string[] {
  return (networkInterfaces()[bridge] ?? [])
    .map(({ address }) => address)
    .filter((address) => !/^fe80:/i.test(address));
}

/** Interfaces of a bridge; undefined when it is none. */
async function ports(bridge: string): Promise<string[] | undefined> {
  try {
    return await readdir(`/sys/class/net/${bridge}/brif`);
  } catch {
    return undefined;
  }
}
