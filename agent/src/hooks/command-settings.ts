/** Settings of the hook `command`. */
import { z } from 'zod';
import { stepLimits } from './settings-common.js';

const command = z
  .array(
    z
      .string()
      .max(4096)
      .refine((word) => !word.includes('\0'), 'a word without NUL'),
  )
  .min(1)
  .max(64)
  .refine(([program]) => program !== '', 'a program');

export const commandSettingsSchema = z
  .strictObject({
    kind: z.literal('command'),
    ...stepLimits,
    quiesce: command.describe('Holds the application; 0: it is held. Words, no shell'),
    release: command.describe(
      'Lets go of it, within 5 seconds. Runs also when quiesce failed, or was not run, and may run twice; 0: it is free',
    ),
    prepare: command.optional().describe('Before the hold, e.g. flushes what can be flushed without holding anybody'),
    verify: command.optional().describe('After the release; 0: the hold was unbroken. What it prints is kept as proof'),
    undo: command
      .optional()
      .describe(
        'After a death of the agent, before anything else: ends what a hold left, and prints what it was. Default: release',
      ),
    afterRecovery: command.optional().describe('In the recovered VM before its readiness, also in drills'),
    releaseAfterSeconds: z
      .number()
      .int()
      .min(2)
      .max(300)
      .default(20)
      .describe(
        'The guest runs release by itself so many seconds after quiesce began, unless the agent did. Longer than holdSecondsMax',
      ),
  })
  .describe('Programs of your own in the guest, e.g. that drain a client or a queue');
