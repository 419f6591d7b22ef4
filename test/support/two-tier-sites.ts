/**
 * Two sites on this machine, each a libvirt and an agent: the application of two-tier.ts in two real VMs at the first, one
 * group that protects both, a link between the agents that can be cut. The tests with real VMs and `make demo` use it.
 */
import { join } from 'node:path';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { Operation, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import type { AgentHandle, AgentSettings } from './agent-handle.js';
import { guestImage, type GuestImage } from './guest-image.js';
import { Laboratory } from './laboratory.js';
import type { LinkProxy } from './link-proxy.js';
import { PrivateLibvirt } from './private-libvirt.js';
import { createNetwork, groupDisks, startTwoTier, type Pair } from './two-tier.js';
import { waitFor } from './wait.js';

export const group = 'shop';
/** Of the client in a drill: the target's agent gives it to the guest. */
export const drillAddress = '10.77.0.30/24';
const vmNames = ['db', 'client'] as const;
const operationTimeoutMs = 600_000;
const recoveryVms = [
  {
    vm: 'db',
    readiness: [{ kind: 'command' as const, command: ['/opt/postgresql/pg_isready', '-h', '/run'] }],
  },
  {
    vm: 'client',
    readiness: [{ kind: 'guest-agent' as const }],
    addresses: [{ nic: 0, test: { addresses: [drillAddress] } }],
  },
];

interface Parts {
  readonly lab: Laboratory;
  readonly image: GuestImage;
  readonly here: PrivateLibvirt;
  readonly there: PrivateLibvirt;
  /** Agents that are prepared, not started. */
  readonly source: AgentHandle;
  readonly target: AgentHandle;
  readonly link: LinkProxy;
}

export interface SitesOptions {
  /** Owns at once whatever is started, so that it can end everything in the middle. Default: one of its own. */
  readonly owned?: AsyncDisposableStack;
  /** While the guests' image is made. */
  readonly onImageBytes?: (doneBytes: number, totalBytes: number) => void;
  /** Names of the sites; then the agents' files name no group, for it is declared by their API. */
  readonly named?: { readonly source: string; readonly target: string };
}

interface RunOptions {
  readonly at?: AgentHandle;
  /** Another group than `group`. */
  readonly of?: string;
  readonly onChange?: (operation: Operation) => void;
}

export class TwoTierSites implements AsyncDisposable {
  readonly lab: Laboratory;
  readonly image: GuestImage;
  readonly here: PrivateLibvirt;
  readonly there: PrivateLibvirt;
  readonly source: AgentHandle;
  readonly target: AgentHandle;
  readonly link: LinkProxy;

  private constructor(
    private readonly owned: AsyncDisposableStack,
    parts: Parts,
  ) {
    ({
      lab: this.lab,
      image: this.image,
      here: this.here,
      there: this.there,
      source: this.source,
      target: this.target,
      link: this.link,
    } = parts);
  }

  /** Both libvirts, and the VMs started at the first; nothing is protected yet. */
  static async boot(options: SitesOptions = {}): Promise<TwoTierSites> {
    const { owned = new AsyncDisposableStack() } = options;
    try {
      return await TwoTierSites.#boot(owned, options);
    } catch (error) {
      await owned.disposeAsync();
      throw error;
    }
  }

  static async #boot(stack: AsyncDisposableStack, { onImageBytes, named }: SitesOptions): Promise<TwoTierSites> {
    const lab = stack.use(await Laboratory.open());
    const image = await guestImage(lab.processes, onImageBytes);
    const start = async (name: string): Promise<PrivateLibvirt> =>
      stack.use(await PrivateLibvirt.start(lab.processes, join(lab.directory, name), `libvirt-${name}`));
    const [here, there] = [await start('a'), await start('b')];
    for (const { virsh } of [here, there]) await createNetwork(lab, virsh);
    await startTwoTier(lab, here.virsh);
    const source = await lab.prepareAgent('source');
    const target = await lab.prepareAgent('target');
    const link = await lab.startLink('link', target.addresses.stream);
    const [sends, receives] = [sourceSettings(here, target, link), targetSettings(there, source, image)];
    source.configure(named === undefined ? sends : { ...sends, site: named.source, sourceGroups: [] });
    target.configure(named === undefined ? receives : { ...receives, site: named.target, targetGroups: [] });
    for (const agent of [source, target]) stack.defer(() => (agent.isRunning ? agent.stop() : undefined));
    return new TwoTierSites(stack, { lab, image, here, there, source, target, link });
  }

  /** Both agents run; the first sync begins. */
  async protect(): Promise<void> {
    await this.target.start();
    await this.source.start();
  }

  /** Until a complete checkpoint made after the call knows both VMs; how long that took, in ms. */
  async waitProtecting(at: AgentHandle = this.target): Promise<number> {
    const sinceMs = Date.now();
    await waitFor(
      'a complete checkpoint that names the definitions',
      async () => {
        const { state, newestCheckpoint: newest } = await at.client.group(group);
        return (
          state === 'protecting' &&
          newest !== null &&
          newest.sourceTimeMs > sinceMs &&
          newest.attributes['definitions'] !== undefined
        );
      },
      { timeoutMs: 180_000, everyMs: 200 },
    );
    return Date.now() - sinceMs;
  }

  /** Complete checkpoints that know their VMs, oldest first. */
  async checkpoints(): Promise<Checkpoint[]> {
    const { checkpoints } = await this.target.client.checkpoints(group, { complete: true, limit: 1000 });
    return checkpoints
      .filter(({ attributes }) => attributes['definitions'] !== undefined)
      .sort((one, other) => one.sourceTimeMs - other.sourceTimeMs);
  }

  /** Starts an operation, waits for its end; throws unless it succeeded. Default: at the target. */
  async run(
    id: string,
    kind: OperationRequest['kind'],
    args: object,
    { at = this.target, of = group, onChange }: RunOptions = {},
  ): Promise<Operation> {
    await at.client.startOperation(id, { kind, group: of, arguments: args } as OperationRequest);
    const done = await at.client.waitOperation(id, onChange, AbortSignal.timeout(operationTimeoutMs));
    if (done.state !== 'succeeded') throw new Error(`${kind} ${id}: ${done.state} ${JSON.stringify(done.error)}`);
    return done;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.owned.disposeAsync();
  }
}

function sourceSettings(here: PrivateLibvirt, target: AgentHandle, link: LinkProxy): AgentSettings {
  return {
    peers: [{ name: 'target', address: link.address, api: target.addresses.api }],
    hypervisors: [{ name: 'local', kind: 'libvirt', uri: here.uri }],
    sourceGroups: [
      {
        name: group,
        targets: [{ peer: 'target' }],
        checkpointIntervalSeconds: 1,
        vms: vmNames.map((vm) => ({ vm, hypervisor: 'local' })),
        fencing: 'isolate',
      },
    ],
  };
}

function targetSettings(there: PrivateLibvirt, source: AgentHandle, image: GuestImage): AgentSettings {
  return {
    peers: [{ name: 'source', address: source.addresses.stream, api: source.addresses.api }],
    hypervisors: [{ name: 'local', kind: 'libvirt', uri: there.uri }],
    targetGroups: [
      {
        name: group,
        streams: ['source'],
        disks: groupDisks(image, vmNames).map((disk) => ({ ...disk, stream: 'source' })),
        checkpointIntervalSeconds: 1,
        recovery: { hypervisor: 'local', vms: recoveryVms },
      },
    ],
  };
}

/** Where the two VMs of a drill run. */
export function pairOf(drill: Operation): Pair {
  const boots = (drill.result?.['boots'] ?? []) as { vm: string; name: string }[];
  const name = (vm: string): string => boots.find((boot) => boot.vm === vm)!.name;
  return { db: name('db'), client: name('client') };
}
