/** This agent's shares of holds over several source agents, as the target of a group asks for their steps. */
import { TidemarkError } from '../core/errors.js';
import type { Clock } from '../core/clock.js';
import { HoldShare } from '../hooks/hold-share.js';
import type { HookedVm } from '../hooks/settings.js';
import type { HoldShareState, HoldStepRequest } from '../service/hold-schemas.js';
import type { VmAttachment } from '../attach/vm-attachment.js';
import type { ApplicationCheckpoints } from './application-checkpoints.js';
import { hookedGuests } from './hooked-guests.js';
import type { SourceHandle } from './source-side.js';
import type { SourceVms } from './source-vms.js';

export interface HoldSharesOptions {
  readonly applications: ApplicationCheckpoints;
  readonly vms: SourceVms;
  readonly clock: Clock;
}

/** A group without hooks here holds nothing. */
const nothing: HoldShareState = {
  ...{ holdMsMax: 0, tiers: [], present: [], absent: [], reasons: [], vms: [], markUs: 0, flushedBytes: 0 },
};

export class HoldShares {
  private readonly shares = new Map<string, { readonly id: string; readonly share: HoldShare }>();

  constructor(private readonly options: HoldSharesOptions) {}

  /** `operation-running` while another hold of the group runs, `illegal-state` for a step of a hold that is over. */
  async step(source: SourceHandle, id: string, request: HoldStepRequest): Promise<HoldShareState> {
    const { name } = source.group;
    if (source.config.hooks === undefined) return nothing;
    if (request.step === 'prepare' && this.shares.get(name)?.id !== id) await this.begin(source, id);
    const known = this.shares.get(name);
    if (known?.id !== id) throw new TidemarkError('illegal-state', `Hold ${id} of ${name} is over here.`);
    return known.share.step(request);
  }

  /** The hold lasts until its share has ended; what it recorded can be asked for until the next one. */
  private async begin(source: SourceHandle, id: string): Promise<void> {
    const { applications } = this.options;
    const { name } = source.group;
    const begun = Promise.withResolvers<void>();
    applications
      .holding(name, async (begin) => {
        const share = this.open(source, id);
        await begin(id, share.present);
        this.shares.set(name, { id, share: share.share });
        begun.resolve();
        await share.share.ended;
        return { isReleased: () => share.share.isReleased, result: undefined };
      })
      .catch((error: unknown) => begun.reject(error));
    await begun.promise;
  }

  private open({ group, config }: SourceHandle, id: string): { share: HoldShare; present: string[] } {
    const { vms, clock, applications } = this.options;
    const { hooks } = config;
    if (hooks === undefined) throw new TidemarkError('hooks-none', `Source group ${group.name} has no hooks.`);
    const attachments = vms.of(group.name);
    const here = hooks.vms.flatMap((hooked) => {
      const found = attachments.find((each) => isFor(hooked, each) && runs(each));
      return found === undefined ? [] : [{ hooked, vm: found.vm }];
    });
    const guests = hookedGuests({ ...hooks, vms: here.map(({ hooked }) => hooked) }, attachments, clock);
    const absent = hooks.vms.filter((hooked) => !here.some((each) => each.hooked === hooked)).map(({ vm }) => vm);
    const share = new HoldShare({
      ...{ id, guests, absent, clock, signal: applications.signal },
      present: here.flatMap(({ vm }) => [vm.name, vm.uuid]),
      holdMsMax: hooks.holdSecondsMax * 1000,
      capturedBytes: () => group.status.capturedBytes,
      markUs: () => Math.round(group.lastMarkUs),
    });
    return { share, present: here.map(({ vm }) => vm.name) };
  }
}

function isFor({ vm: wanted }: HookedVm, { vm }: VmAttachment): boolean {
  return vm.name === wanted || vm.uuid === wanted;
}

function runs({ state }: VmAttachment): boolean {
  return state !== 'searching' && state !== 'off';
}
