/** Decisions of the data path become events of the API and lines of the log. */
import type { EventSink } from '../core/events.js';
import type { Logger } from '../control/logger.js';
import type { EventRing } from '../service/event-ring.js';

const errors = new Set([
  'group-not-opened',
  'group-failed',
  'source-not-opened',
  'catalogue-failed',
  'journal-corrupt',
  'durable-regression',
  'journal-full',
  'capture-detached',
  'replica-damaged',
  'replica-unreadable',
]);
const warnings = new Set([
  'journal-poisoned',
  'barrier-broken',
  'capture-backs-off',
  'disk-detached',
  'group-incomplete',
  'guard-lost',
  'history-dropped',
  'fencing-failed',
  'source-fenced',
  'link-lost',
  'link-refused',
  'link-paused',
  'link-storage-failed',
  'operation-failed',
  'definition-refused',
  'failover-uncommitted',
  'recovery-upkeep-failed',
  'retreat-bitmap',
  'spool-unreadable',
  'stale-incarnation',
  'sync-read-failed',
  'sync-unavailable',
  'upkeep-failed',
  'old-disks-kept',
  'old-vm-left',
  'source-discarded',
  'take-over-unfinished',
  'vm-attach-failed',
  'vm-released',
]);

export function eventSink(ring: EventRing, log: Logger): EventSink {
  return {
    emit: (code, fields) => {
      const severity = errors.has(code) ? 'error' : warnings.has(code) ? 'warning' : 'info';
      const { group, ...attributes } = fields;
      const message = Object.entries(attributes)
        .map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}`)
        .join(', ');
      ring.add({
        severity,
        code,
        group: typeof group === 'string' ? group : null,
        message: message || code,
        attributes,
      });
      const line = { event: code, ...fields };
      if (severity === 'error') log.error(line, code);
      else if (severity === 'warning') log.warn(line, code);
      else log.info(line, code);
    },
  };
}
