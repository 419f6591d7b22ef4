/** Reversals of target groups: what they need of the agent around the group, and which way each group goes at it. */
import { sourceGroupSchema, type SourceGroupConfig } from '../config/schema-groups.js';
import { TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import type { Storage } from '../core/storage.js';
import type { GroupContext } from '../target/context.js';
import type { Reversal, TakeOver } from '../target/reversal.js';
import type { DirectionRecords } from './direction-records.js';
import type { AskedPeers } from './source-peers.js';
import type { SourceVms } from './source-vms.js';
import type { TargetSide } from './target-side.js';

export interface ReversalOptions {
  readonly records: DirectionRecords;
  readonly peers: AskedPeers;
  readonly vms: SourceVms;
  /** Source groups of the file and of the API. */
  readonly declared: () => readonly SourceGroupConfig[];
  readonly targets: () => TargetSide;
  readonly events: EventSink;
  /** Stream address of a peer; undefined when the configuration names none. */
  readonly addressOf: (peer: string) => string | undefined;
  /** Source groups of this moment are opened; nothing before the agent has started them. */
  readonly changed: () => Promise<void>;
  readonly storage: Storage;
  /** Spools and epoch files of the links lie below it. */
  readonly spoolDirectory: string;
}

export function reversals(options: ReversalOptions): Reversal {
  const { records, peers, vms, targets, events, addressOf, changed, storage, spoolDirectory } = options;
  const sourceOf = (group: GroupContext, peer: string): SourceGroupConfig => {
    const recovered = asRecovered(group, peer);
    return asDeclared(options.declared(), recovered) ?? recovered;
  };
  return {
    check: async (group, peer) => {
      peers.check(peer);
      if (addressOf(peer) === undefined)
        throw new TidemarkError('config-invalid', `Peer ${peer} has no address: this agent could not send to it.`, {
          path: 'peers',
        });
      const plans = await vms.plan(sourceOf(group, peer));
      const known = new Set([...group.manifest.state.disks.values()].map(({ name }) => name));
      const missing = [...known].filter((name) => !plans.some((plan) => plan.name === name));
      if (missing.length > 0)
        throw new TidemarkError('disk-unknown', `No VM here has ${missing.join(', ')} of group ${group.name}.`);
      return { disks: plans.map(({ name, sizeBytes }) => ({ name, sizeBytes })), policy: policyOf(targets(), group) };
    },
    takeOver: (peer, request, onProgress) => peers.takeOver(peer, request, onProgress),
    turn: async (group, peer, operation) => {
      const { name } = group;
      if (records.get(name)?.operation !== operation) {
        const config = sourceOf(group, peer);
        // The epoch that its links knew when the group last went this way is of a history that is over.
        await storage.removeTree(`${spoolDirectory}/${name}`);
        await records.save({ version: 1, role: 'source', group: name, operation, config });
        events.emit('group-turned', { group: name, role: 'source', operation });
      }
      await changed();
    },
    isEncrypted: (name) => targets().policy(name).spec.encryptionKeyFile !== undefined,
  };
}

/** Source groups as they are now: the declared ones, but for those that are protected to here or only came here by a reversal. */
export function sourceGroupsNow(
  declared: readonly SourceGroupConfig[],
  records: DirectionRecords,
): SourceGroupConfig[] {
  const turned = records.list();
  return [
    ...declared.filter(({ name }) => !turned.some(({ group }) => group === name)),
    ...turned.flatMap((record) =>
      record.role === 'source' ? [asDeclared(declared, record.config) ?? record.config] : [],
    ),
  ];
}

/** A group that came home goes as it is declared there, when that is where the reversal sent it. */
function asDeclared(declared: readonly SourceGroupConfig[], turned: SourceGroupConfig): SourceGroupConfig | undefined {
  const goesThere = ({ targets }: SourceGroupConfig): boolean =>
    targets.some(({ peer }) => turned.targets.some((target) => target.peer === peer));
  return declared.find((group) => group.name === turned.name && goesThere(group));
}

function asRecovered({ name, settings }: GroupContext, peer: string): SourceGroupConfig {
  const { recovery, checkpointIntervalMs } = settings;
  return sourceGroupSchema.parse({
    name,
    targets: [{ peer }],
    checkpointIntervalSeconds: checkpointIntervalMs / 1000,
    vms: (recovery?.vms ?? []).map(({ vm }) => ({ vm, hypervisor: recovery?.hypervisor })),
  });
}

function policyOf(targets: TargetSide, { name }: GroupContext): TakeOver['policy'] {
  const { history, checkpointIntervalSeconds, newDisks, diskSizeMax } = targets.policy(name).spec;
  return { history, checkpointIntervalSeconds, newDisks, diskSizeMax };
}
