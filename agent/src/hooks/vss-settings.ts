/** Settings of the hooks of Windows guests: `windows`, `sqlserver`, `exchange`, `sharepoint`. */
import { z } from 'zod';
import { stepLimits } from './settings-common.js';

const shared = {
  ...stepLimits,
  noErrorText: z
    .string()
    .min(1)
    .max(100)
    .default('No error')
    .describe("What vssadmin list writers says of a writer without error, in the guest's language"),
};

export const windowsSettingsSchema = z
  .strictObject({ kind: z.literal('windows'), ...shared })
  .describe('A Windows guest, with fsfreeze, which drives VSS there: every VSS writer');
export const sqlserverSettingsSchema = z
  .strictObject({ kind: z.literal('sqlserver'), ...shared })
  .describe('SQL Server in a Windows guest, by its VSS writer, with fsfreeze, which drives VSS there');
export const exchangeSettingsSchema = z
  .strictObject({ kind: z.literal('exchange'), ...shared })
  .describe('Exchange Server, by its VSS writer, with fsfreeze, which drives VSS there');
export const sharepointSettingsSchema = z
  .strictObject({ kind: z.literal('sharepoint'), ...shared })
  .describe('SharePoint, by its VSS writers, with fsfreeze, which drives VSS there. Its databases: sqlserver');

/** Kinds that tell that a guest is Windows. */
const windowsKinds: readonly string[] = ['windows', 'sqlserver', 'exchange', 'sharepoint'];

export function isWindows(hooks: readonly { readonly kind: string }[]): boolean {
  return hooks.some(({ kind }) => windowsKinds.includes(kind));
}

/** What VSS needs of the hooks of a VM; undefined: nothing is wrong. */
export function windowsProblem(hooks: readonly { readonly kind: string }[], hasSsh: boolean): string | undefined {
  if (!isWindows(hooks)) return undefined;
  if (hasSsh) return 'a Windows guest is reached by its guest agent, not over ssh';
  if (!hooks.some(({ kind }) => kind === 'fsfreeze')) return 'a Windows guest needs fsfreeze, too: it drives VSS';
  const other = hooks.find(({ kind }) => kind !== 'fsfreeze' && !windowsKinds.includes(kind))?.kind;
  return other === undefined ? undefined : `${other} is not for Windows guests`;
}
