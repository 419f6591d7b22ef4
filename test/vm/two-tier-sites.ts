/** Two sites, each a libvirt and an agent; at the first runs the application in two VMs, one group protects both. */
import { join } from 'node:path';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { Operation, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { createNetwork, groupDisks, startTwoTier, waitApplication, type Pair } from '../support/two-tier.js';
import { waitFor } from '../support/wait.js';

export const group = 'shop';
const vmNames = ['db', 'client'] as const;
const operationTimeoutMs = 180_000;
const readiness = {
  db: { kind: 'command' as const, command: ['/opt/postgresql/pg_isready', '-h', '/run'] },
  client: { kind: 'guest-agent' as const },
};

export class TwoTierSites implements AsyncDisposable {
  private constructor(
    private readonly owned: AsyncDisposableStack,
    readonly here: PrivateLibvirt,
    readonly there: PrivateLibvirt,
    readonly source: AgentHandle,
    readonly target: AgentHandle,
  ) {}

  /** Resolves when the application runs at the source and both VMs are protected. */
  static async start(): Promise<TwoTierSites> {
    await using stack = new AsyncDisposableStack();
    const lab = stack.use(await Laboratory.open());
    const start = async (name: string): Promise<PrivateLibvirt> =>
      stack.use(await PrivateLibvirt.start(lab.processes, join(lab.directory, name), `libvirt-${name}`));
    const [here, there] = [await start('a'), await start('b')];
    for (const { virsh } of [here, there]) await createNetwork(lab, virsh);
    const image = await startTwoTier(lab, here.virsh);
    tell(`application after ${seconds(await waitApplication(here.virsh))} s`);

    const target = await lab.startAgent('target', {
      peers: [{ name: 'source' }],
      hypervisors: [{ name: 'local', kind: 'libvirt', uri: there.uri }],
      targetGroups: [
        {
          name: group,
          streams: ['source'],
          disks: groupDisks(image, vmNames).map((disk) => ({ ...disk, stream: 'source' })),
          checkpointIntervalSeconds: 1,
          recovery: {
            hypervisor: 'local',
            vms: vmNames.map((vm) => ({ vm, readiness: [readiness[vm]] })),
          },
        },
      ],
    });
    stack.defer(() => target.stop());
    const source = await lab.startAgent('source', {
      peers: [{ name: 'target', address: target.addresses.stream }],
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
    });
    stack.defer(() => source.stop());
    const sites = new TwoTierSites(stack.move(), here, there, source, target);
    try {
      const syncedMs = await sites.waitProtecting();
      tell(`first sync: ${seconds(syncedMs)} s`);
      return sites;
    } catch (error) {
      await sites[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Until a complete checkpoint made after the call knows both VMs; how long that took, in ms. */
  async waitProtecting(): Promise<number> {
    const sinceMs = Date.now();
    await waitFor(
      'a complete checkpoint that names the definitions',
      async () => {
        const { state, newestCheckpoint: newest } = await this.target.client.group(group);
        return (
          state === 'protecting' &&
          newest !== null &&
          newest.sourceTimeMs > sinceMs &&
          newest.attributes['definitions'] !== undefined
        );
      },
      { timeoutMs: 120_000, everyMs: 200 },
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

  /** Starts an operation at the target, waits for its end; throws unless it succeeded. */
  async run(id: string, kind: OperationRequest['kind'], args: object): Promise<Operation> {
    await this.target.client.startOperation(id, { kind, group, arguments: args } as OperationRequest);
    const done = await this.target.client.waitOperation(id, () => undefined, AbortSignal.timeout(operationTimeoutMs));
    if (done.state !== 'succeeded') throw new Error(`${kind} ${id}: ${done.state} ${JSON.stringify(done.error)}`);
    return done;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.owned.disposeAsync();
  }
}

/** Where the two VMs of drills run. */
export function pairOf(...drills: readonly Operation[]): Pair {
  const boots = drills.flatMap(({ result }) => (result?.['boots'] ?? []) as { vm: string; name: string }[]);
  const name = (vm: string): string => boots.find((boot) => boot.vm === vm)!.name;
  return { db: name('db'), client: name('client') };
}

/** A line beside the test's result: what was measured. */
export function tell(line: string): void {
  process.stderr.write(`two-tier: ${line}\n`);
}

export function seconds(ms: number): string {
  return (ms / 1000).toFixed(1);
}
