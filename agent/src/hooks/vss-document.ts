/** What the hooks of VSS writers promise, and what they run. */
import type { HookDocument } from './hook.js';

export interface VssProduct {
  readonly name: string;
  /** Writers that must be there. */
  readonly needed: readonly string[];
  /** Writers that must be sound where they are there. */
  readonly also: RegExp;
  /** Its components name the directories that its data lies in. */
  readonly hasFiles: boolean;
}

const learn = 'https://learn.microsoft.com/en-us';
const vss = `${learn}/windows-server/storage/file-server/volume-shadow-copy-service`;
const states = `${learn}/windows/win32/api/vss/ne-vss-vss_writer_state`;
const commands = `${learn}/windows-server/administration/windows-commands`;

export function vssDocument({ name, needed, hasFiles }: VssProduct): HookDocument {
  const writers =
    needed.length === 0 ? 'every VSS writer of the guest' : `the VSS writer of ${name} (${needed.join(', ')})`;
  return {
    promise: `At the mark ${writers} had flushed and was frozen, and so were all fixed volumes: fsfreeze in the same VM drives VSS by the provider of the guest agent (QEMU Guest Agent VSS Provider). VSS gives writers 60 seconds to freeze, and holds writes for 10 seconds at most; a hold that takes longer ends by itself, the thaw says so (VSS_E_HOLD_WRITES_TIMEOUT), and the point is crash. The guest agent asks for a full backup: Exchange truncates its logs after one, where circular logging is off. ${name === 'Windows' ? 'What has no writer is as after a clean flush of its volume.' : `${name} recovers by its logs when it starts.`} A Windows guest needs no dead man: VSS is its own.`,
    findings: {
      'writer-failed': 'A writer is not stable, or its last error is not "No error"; restart its service.',
      'writer-restarted': 'A writer was started anew between prepare and verify.',
      ...(needed.length === 0
        ? {}
        : { 'writer-missing': 'A writer of the product is not there: its service does not run.' }),
      ...(hasFiles
        ? {
            'data-unprotected':
              'A database lies on no captured disk of the group, on a share, or on a volume that cannot be followed to its disk.',
          }
        : {}),
    },
    statements: [
      {
        step: 'prepare',
        statement: 'vssadmin list writers',
        why: 'Each has state [1] (stable) and no last error.',
        source: `${commands}/vssadmin-list-writers`,
      },
      ...(hasFiles
        ? [
            {
              step: 'prepare' as const,
              statement: 'diskshadow: list writers detailed',
              why: 'Paths affected by its components: where its databases lie; Get-Volume, Get-Partition, Get-Disk tell on which disks.',
              source: `${commands}/diskshadow`,
            },
          ]
        : []),
      {
        step: 'quiesce',
        statement: 'guest-fsfreeze-freeze',
        why: 'By fsfreeze: writers freeze, VSS flushes and holds the volumes, and the provider of the guest agent answers.',
        source: vss,
      },
      {
        step: 'release',
        statement: 'guest-fsfreeze-thaw',
        why: 'By fsfreeze: VSS lets go and ends the backup. Its error says that VSS had let go before.',
        source: 'https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html',
      },
      {
        step: 'verify',
        statement: 'vssadmin list writers',
        why: 'The same writers, stable again and without error; [2] to [5] are waited for.',
        source: states,
      },
    ],
    testedAgainst: 'dialogue',
  };
}
