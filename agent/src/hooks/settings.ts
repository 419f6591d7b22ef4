/** What a person declares of the hooks of a source group: which run where, when, and how long a hold may last. */
import { z } from 'zod';

const timeoutSeconds = z.number().min(0.1).max(600);

const common = {
  prepareSeconds: timeoutSeconds.default(60).describe('Seconds for the work before the hold'),
  quiesceSeconds: timeoutSeconds
    .default(10)
    .describe('Seconds; a quiesce that takes longer is called off, and the point is crash'),
};

export const fsfreezeSettingsSchema = z
  .strictObject({
    kind: z.literal('fsfreeze'),
    ...common,
    dirtyBytesMax: z
      .number()
      .int()
      .min(0)
      .default(16 * 1024 * 1024)
      .describe(
        'Before the freeze the guest is synced until no more bytes than this are dirty, or prepareSeconds are over',
      ),
  })
  .describe('All file systems of the guest, by its guest agent; on Windows this drives VSS');

export const hookSettingsSchema = z.discriminatedUnion('kind', [fsfreezeSettingsSchema]);
export type HookSettings = z.infer<typeof hookSettingsSchema>;
export type HookKind = HookSettings['kind'];
export type HookSettingsOf<Kind extends HookKind> = Extract<HookSettings, { kind: Kind }>;
