/** The alert that an application checkpoint became only a crash checkpoint. */
import { errorTable } from '../core/errors.js';
import type { Reason } from '../hooks/held-vm.js';
import type { GroupStatus } from '../service/group-schemas.js';

export type Alert = GroupStatus['alerts'][number];

export function crashAlert(group: string, reasons: readonly Reason[], sinceMs: number): Alert {
  const message = reasons.map(({ vm, step, reason }) => `${vm} ${step}: ${reason}`.trim()).join('; ');
  return {
    code: 'hook-failed',
    message: `The last application checkpoint of ${group} is only a crash checkpoint: ${message}`,
    hint: errorTable['hook-failed'].hint,
    sinceMs,
  };
}
