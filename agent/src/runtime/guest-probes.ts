/**
 * Looks, before any application checkpoint, whether the guests that have hooks can be spoken to: a guest agent that forbids
 * programs (Red Hat's does by default) is an alert at once, not a failure of the night.
 */
import { z } from 'zod';
import type { Clock } from '../core/clock.js';
import { errorTable, isTidemarkError } from '../core/errors.js';
import type { GroupStatus } from '../service/group-schemas.js';
import type { SourceHandle, SourceSide } from './source-side.js';
import type { SourceVms } from './source-vms.js';

export interface GuestProbesOptions {
  readonly sources: Pick<SourceSide, 'list'>;
  readonly vms: Pick<SourceVms, 'of'>;
  readonly clock: Clock;
  /** An application checkpoint is being made: the guests are left alone. */
  readonly isBusy: (group: string) => boolean;
}

type Alert = GroupStatus['alerts'][number];

const againMs = 600_000;
const callMs = 5000;
const needed = ['guest-exec', 'guest-exec-status', 'guest-fsfreeze-freeze', 'guest-fsfreeze-thaw'];
const infoSchema = z.object({ supported_commands: z.array(z.object({ name: z.string(), enabled: z.boolean() })) });

export class GuestProbes {
  /** By group and VM; undefined: it answers and forbids nothing. */
  private readonly found = new Map<string, { readonly atMs: number; readonly alert: Alert | undefined }>();

  constructor(private readonly options: GuestProbesOptions) {}

  alertsOf(group: string): Alert[] {
    return [...this.found].flatMap(([key, { alert }]) =>
      key.startsWith(`${group}/`) && alert !== undefined ? [alert] : [],
    );
  }

  /** Called often; one call at a time. */
  async tend(): Promise<void> {
    for (const source of this.options.sources.list()) if (source.config.hooks !== undefined) await this.look(source);
  }

  private async look({ group, config }: SourceHandle): Promise<void> {
    const { vms, clock, isBusy } = this.options;
    for (const { vm, ssh } of config.hooks?.vms ?? []) {
      const attachment = vms.of(group.name).find((each) => each.vm.name === vm || each.vm.uuid === vm);
      const key = `${group.name}/${vm}`;
      const last = this.found.get(key);
      const isFresh = last !== undefined && clock.monotonicMs() - last.atMs < againMs;
      if (attachment?.state !== 'attached' || ssh !== undefined || isFresh || isBusy(group.name)) continue;
      const agent = attachment.hypervisor.guestAgent(attachment.vm);
      if (agent === undefined) continue;
      try {
        const { supported_commands: commands } = infoSchema.parse(await agent.call('guest-info', {}, callMs));
        const missing = needed.filter((name) => !commands.some((each) => each.name === name && each.enabled));
        const message = `The guest agent of ${vm} forbids ${missing.join(', ')}: its hooks cannot run.`;
        const alert = { code: 'hook-blocked', message, hint: errorTable['hook-blocked'].hint, sinceMs: clock.wallMs() };
        this.found.set(key, { atMs: clock.monotonicMs(), alert: missing.length === 0 ? undefined : alert });
      } catch (error) {
        // It may be booting: asked again soon, and a checkpoint says what is wrong with it.
        if (!isTidemarkError(error) && !(error instanceof z.ZodError)) throw error;
      } finally {
        agent.close();
      }
    }
  }
}
