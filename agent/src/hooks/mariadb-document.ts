/** What the hook mariadb promises, and what it runs. */
import type { HookDocument } from './hook.js';
import { innodbFindings, innodbPromise } from './innodb-document.js';

const page = (name: string): string => `https://mariadb.com/kb/en/${name}/`;
const stages = page('backup-stage');
const flushing = page('innodb-page-flushing');
const statuses = 'https://mariadb.com/kb/en/innodb-status-variables/#innodb_checkpoint_age';

export const mariadbDocument: HookDocument = {
  promise: `${innodbPromise} In the recovered server nothing is left of the hold.`,
  findings: innodbFindings,
  statements: [
    {
      step: 'prepare',
      statement:
        'SELECT @@GLOBAL.innodb_flush_log_at_trx_commit, … FROM information_schema.GLOBAL_VARIABLES, TABLES, INNODB_SYS_TABLESPACES',
      why: 'Findings; where its data lies.',
      source: page('innodb-system-variables'),
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
      statement:
        "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'INNODB_CHECKPOINT_AGE'",
      why: 'What a start would replay now.',
      source: statuses,
    },
    {
      step: 'prepare',
      statement: 'SET SESSION lock_wait_timeout = <lockWaitSeconds>, wait_timeout = 900; SELECT CONNECTION_ID()',
      why: 'Of the session that will hold: a lock that is not granted in time is given up with error 1205, which ends it.',
      source: 'https://mariadb.com/kb/en/server-system-variables/#lock_wait_timeout',
    },
    {
      step: 'quiesce',
      statement: 'BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT',
      why: 'When the last one returns everything committed is in the point, and nothing is committed until the end. A stage out of order is error 4146 or 4147.',
      source: stages,
    },
    {
      step: 'quiesce',
      statement: 'SELECT CONNECTION_ID(), <UPTIME>, <INNODB_CHECKPOINT_AGE>',
      why: 'Who holds; what a start will replay.',
      source: statuses,
    },
    {
      step: 'release',
      statement: 'BACKUP STAGE END; SELECT CONNECTION_ID(), <UPTIME>',
      why: 'Succeeds only in the session that still holds; the stages of a session that is lost end with it. Where it does not answer its client is killed.',
      source: stages,
    },
    {
      step: 'verify',
      statement: 'the answers of quiesce and release',
      why: 'The same connection of the same start of the server: the lock was never lost.',
      source: stages,
    },
    {
      step: 'undo',
      statement: 'SET GLOBAL innodb_max_dirty_pages_pct, innodb_max_dirty_pages_pct_lwm = <as before>',
      why: 'Only where an earlier agent left them lowered. Its session is ended by the dead man.',
      source: flushing,
    },
  ],
  testedAgainst: 'real',
};
