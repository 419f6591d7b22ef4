/** What the hook mysql promises, and what it runs. */
import type { HookDocument } from './hook.js';
import { innodbFindings, innodbPromise } from './innodb-document.js';

const page = (name: string): string => `https://dev.mysql.com/doc/refman/8.4/en/${name}`;
const lock = page('lock-instance-for-backup.html');
const flush = page('flush.html#flush-tables-with-read-lock');
const flushing = page('innodb-buffer-pool-flushing.html');

export const mysqlDocument: HookDocument = {
  promise: `${innodbPromise} A read lock waits for statements that run, and those after it wait for it: after lockWaitSeconds it is given up, and the point is crash.`,
  findings: innodbFindings,
  statements: [
    {
      step: 'prepare',
      statement:
        'SELECT @@GLOBAL.innodb_flush_log_at_trx_commit, … FROM performance_schema.replication_applier_status, information_schema.TABLES, FILES',
      why: 'Findings; where its data lies.',
      source: page('innodb-parameters.html'),
    },
    {
      step: 'prepare',
      statement:
        'SET GLOBAL innodb_max_dirty_pages_pct_lwm, innodb_max_dirty_pages_pct = <a millionth>; … SET GLOBAL … = <as before>',
      why: 'Outside of the hold, only while a start would replay more than redoBytesMax: above this share of dirty pages InnoDB writes them. The lowered value holds what to restore.',
      source: flushing,
    },
    {
      step: 'prepare',
      statement: 'SELECT <Innodb_redo_log_current_lsn> - <Innodb_redo_log_checkpoint_lsn>',
      why: 'What a start would replay now.',
      source: page('server-status-variables.html#statvar_Innodb_redo_log_checkpoint_lsn'),
    },
    {
      step: 'prepare',
      statement: 'SET SESSION lock_wait_timeout = <lockWaitSeconds>, wait_timeout = 900; SELECT CONNECTION_ID()',
      why: 'Of the session that will hold: a lock that is not granted in time is given up with error 1205, which ends it.',
      source: page('server-system-variables.html#sysvar_lock_wait_timeout'),
    },
    {
      step: 'quiesce',
      statement: 'LOCK INSTANCE FOR BACKUP',
      why: 'No file of InnoDB is made, renamed or removed until the end.',
      source: lock,
    },
    {
      step: 'quiesce',
      statement: 'FLUSH TABLES WITH READ LOCK',
      why: 'When it returns nothing is written or committed until the end.',
      source: flush,
    },
    {
      step: 'release',
      statement: 'UNLOCK TABLES; UNLOCK INSTANCE; SELECT CONNECTION_ID(), <Uptime>',
      why: 'The locks of a session that is lost end with it. Where it does not answer its client is killed.',
      source: lock,
    },
    {
      step: 'verify',
      statement: 'the answers of quiesce and release',
      why: 'The same connection of the same start of the server: the locks were never lost.',
      source: lock,
    },
    {
      step: 'undo',
      statement: 'SET GLOBAL innodb_max_dirty_pages_pct, innodb_max_dirty_pages_pct_lwm = <as before>',
      why: 'Only where an earlier agent left them lowered. Its session is ended by the dead man.',
      source: flushing,
    },
  ],
  testedAgainst: 'dialogue',
};
