/** Two sites with a libvirt each and one VM without an operating system, and a Pulumi stack that protects it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentConfigInput } from '../../agent/src/config/schema.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { writePowerButtonDisk } from '../support/power-button-guest.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import type { CommandResult, PulumiProject } from '../support/pulumi-project.js';
import { waitFor } from '../support/wait.js';
import { openProject } from './disks-rig.js';

const sizeBytes = 8 * 1024 * 1024;

export class RoundTripRig implements AsyncDisposable {
  private constructor(
    readonly lab: Laboratory,
    readonly home: PrivateLibvirt,
    readonly away: PrivateLibvirt,
    readonly atHome: AgentHandle,
    readonly atAway: AgentHandle,
    readonly project: PulumiProject,
    private readonly owned: AsyncDisposableStack,
  ) {}

  static async start(): Promise<RoundTripRig> {
    const stack = new AsyncDisposableStack();
    try {
      const lab = stack.use(await Laboratory.open());
      const home = stack.use(await PrivateLibvirt.start(lab.processes, join(lab.directory, 'a'), 'libvirt-a'));
      const away = stack.use(await PrivateLibvirt.start(lab.processes, join(lab.directory, 'b'), 'libvirt-b'));
      const disk = lab.path('web.raw');
      writePowerButtonDisk(disk, sizeBytes);
      writeFileSync(lab.path('web.xml'), domainXml(disk, lab.path('web.log')));
      await home.virsh.run(['define', lab.path('web.xml')]);
      await home.virsh.run(['start', 'web']);
      const atAway = await lab.prepareAgent('away');
      const atHome = await lab.prepareAgent('home');
      atAway.configure(settings(away, atHome));
      atHome.configure({
        ...settings(home, atAway),
        sourceGroups: [
          {
            name: 'shop',
            targets: [{ peer: 'away' }],
            checkpointIntervalSeconds: 1,
            vms: [{ vm: 'web', hypervisor: 'local' }],
            fencing: 'leave',
          },
        ],
      });
      await atAway.start();
      const project = await openProject(lab, 'program', { runtime: 'yaml' });
      return new RoundTripRig(lab, home, away, atHome, atAway, project, stack.move());
    } catch (error) {
      await stack.disposeAsync();
      throw error;
    }
  }

  /** Writes the program; `dns` stands for what follows the application. */
  declare(inputs: Readonly<Record<string, unknown>> = {}, policy: Readonly<Record<string, unknown>> = {}): void {
    const url = ({ addresses }: AgentHandle): string => `https://${addresses.api}`;
    this.project.program({
      runtime: 'yaml',
      resources: {
        shop: {
          type: 'tidemark:ProtectionGroup',
          properties: {
            name: 'shop',
            target: { api: url(this.atAway) },
            source: { api: url(this.atHome) },
            sourceSite: 'site-home',
            sourceAddresses: { web: ['192.0.2.10'] },
            policy: {
              streams: ['home'],
              disks: [{ name: 'web-vda', sizeBytes, stream: 'home' }],
              checkpointIntervalSeconds: 1,
              recovery: { hypervisor: 'local', vms: [{ vm: 'web', delaySeconds: 3 }] },
              ...policy,
            },
            ...inputs,
          },
        },
        dns: { type: 'pulumi:index:Stash', properties: { input: '${shop.activeSite}' } },
      },
      outputs: {
        ...Object.fromEntries(
          ['activeSite', 'stateSite', 'state', 'reversed', 'lastOperation'].map((name) => [name, `\${shop.${name}}`]),
        ),
        dns: '${dns.input}',
      },
    });
  }

  /** A new checkpoint has become durable at the side that keeps the journal. */
  async protecting(keeper: AgentHandle): Promise<void> {
    const sinceMs = Date.now();
    const fresh = async (): Promise<boolean> => {
      const status = await keeper.client.group('shop').catch(() => undefined);
      const { sourceTimeMs = 0, attributes = {} } = status?.newestCheckpoint ?? {};
      return status?.role === 'target' && sourceTimeMs > sinceMs && attributes['definitions'] !== undefined;
    };
    await waitFor('a new checkpoint of shop', fresh, { timeoutMs: 90_000, everyMs: 100 });
  }

  /** Which runs of the VM there are, at each site: equal before and behind, nothing was started or stopped. */
  async runs(): Promise<Record<'home' | 'away', string>> {
    const idsOf = async ({ virsh }: PrivateLibvirt): Promise<string> => (await virsh.run(['list', '--id'])).trim();
    return { home: await idsOf(this.home), away: await idsOf(this.away) };
  }

  async ok(result: Promise<CommandResult>, ...texts: string[]): Promise<string> {
    const { code, output } = await result;
    if (code !== 0 || texts.some((text) => !output.includes(text)))
      throw new Error(`ended with ${code}, without one of ${JSON.stringify(texts)}:\n${output}`);
    return output;
  }

  async refused(result: Promise<CommandResult>, ...texts: string[]): Promise<void> {
    const { code, output } = await result;
    if (code === 0 || texts.some((text) => !output.includes(text)))
      throw new Error(`ended with ${code}, without one of ${JSON.stringify(texts)}:\n${output}`);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.owned.disposeAsync();
  }
}

function settings({ uri }: PrivateLibvirt, other: AgentHandle): Partial<AgentConfigInput> {
  return {
    peers: [{ name: other.name, address: other.addresses.stream, api: other.addresses.api }],
    hypervisors: [{ name: 'local', kind: 'libvirt', uri }],
  };
}

function domainXml(disk: string, log: string): string {
  return `<domain type='qemu'><name>web</name><uuid>2f9c1d1e-6a77-4f0e-9a51-7be8a4a0c0de</uuid>
    <memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><features><acpi/></features>
    <devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
    <source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
    <serial type='file'><source path='${log}'/></serial></devices></domain>`;
}
