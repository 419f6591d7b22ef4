/**
 * reverse: after a commit the recovered VMs are protected to the site that the group came from.
 *
 * checked (nothing touched) → `taken-over` (the other site has the group as a target, its replica seeded with its old
 * disks; it captures nothing of it any more) → `reversed` (the state: this history is closed) → `turned` (the VMs here are
 * a source group, also after a restart). Before `reversed` it may fail, and be asked for again.
 */
import { TidemarkError } from '../core/errors.js';
import type { ReverseArguments } from '../service/operation-schemas.js';
import type { RecoverySpec, SiteRecovery } from '../service/recovery-spec.js';
import type { GroupContext } from './context.js';
import type { OperationPlan, OperationResult } from './operations.js';
import type { Reversal, TakeOver } from './reversal.js';
import { checkTransition } from './state-machine.js';
import type { TransitionHost } from './transition-host.js';

export function reversePlan(host: TransitionHost): OperationPlan {
  return {
    mustFinish: true,
    exclusive: true,
    prepare: (group, args) => prepareReverse(host, group, args as unknown as ReverseArguments),
    steps: [
      {
        name: 'taken-over',
        background: true,
        mayFail: true,
        run: async ({ group, record, signal, progress }) => {
          const peer = String(record.result?.['peer']);
          const home = await reversalOf(host, group).takeOver(
            peer,
            {
              ...{ id: `${record.id}-home`, group: group.name, signal: AbortSignal.any([signal, host.closing]) },
              arguments: takeOverOf(group, record.arguments as unknown as ReverseArguments, record.result ?? {}),
            },
            progress,
          );
          return { home };
        },
      },
      {
        name: 'reversed',
        run: async ({ group }) => {
          if (group.manifest.state.state !== 'reversed')
            await group.manifest.append({ type: 'state', state: 'reversed' });
          return {};
        },
      },
      {
        name: 'turned',
        background: true,
        run: async ({ group, record }) => {
          await reversalOf(host, group).turn(group, String(record.result?.['peer']), record.id);
          return {};
        },
      },
    ],
  };
}

async function prepareReverse(
  host: TransitionHost,
  group: GroupContext,
  { encryptionKeyFile }: ReverseArguments,
): Promise<OperationResult> {
  const { manifest, settings, name } = group;
  checkTransition(name, manifest.state.state, 'reverse');
  const [peer, ...others] = manifest.state.streams.values();
  if (peer === undefined || others.length > 0)
    throw new TidemarkError('illegal-state', `Group ${name} has several source agents; one can be reversed to.`);
  if (settings.recovery === null)
    throw new TidemarkError('illegal-state', `Group ${name} recovers disks alone: there are no VMs to protect back.`, {
      path: 'recovery',
    });
  const reversal = reversalOf(host, group);
  if (reversal.isEncrypted(name) && encryptionKeyFile === undefined)
    throw new TidemarkError('request-invalid', `Group ${name} is encrypted here: name a key file of ${peer}.`, {
      path: 'arguments.encryptionKeyFile',
    });
  return { peer, ...(await reversal.check(group, peer)) };
}

function takeOverOf(group: GroupContext, args: ReverseArguments, { disks, policy }: OperationResult): TakeOver {
  const { manifest, settings } = group;
  const { recovery, ...rest } = args;
  const current = manifest.state.epochs.at(-1);
  if (current === undefined || settings.recovery === null)
    throw new TidemarkError('illegal-state', `Group ${group.name} has no epoch to go on from.`);
  return {
    ...rest,
    parent: { epoch: current.epoch, branch: current.branch },
    disks: disks as TakeOver['disks'],
    policy: policy as TakeOver['policy'],
    recovery: recovery ?? turnedRound(settings.recovery),
  };
}

/** The same order and readiness; networks mapped the other way. */
function turnedRound({ hypervisor: _here, ...recovery }: RecoverySpec): SiteRecovery {
  return {
    ...recovery,
    vms: recovery.vms.map(({ networks, addresses: _ours, ...vm }) => ({
      ...vm,
      addresses: [],
      networks: networks.map(({ from, live }) => ({ from: live, live: from })),
    })),
  };
}

function reversalOf({ reversal }: TransitionHost, group: GroupContext): Reversal {
  if (reversal !== undefined) return reversal;
  throw new TidemarkError('illegal-state', `Group ${group.name} cannot be reversed here.`);
}
