/** What the hook oracle promises, and what it runs. */
import type { HookDocument } from './hook.js';

const sql = 'https://docs.oracle.com/en/database/oracle/oracle-database/19/sqlrf';
const reference = 'https://docs.oracle.com/en/database/oracle/oracle-database/19/refrn';
const alterSystem = `${sql}/ALTER-SYSTEM.html`;
const alterDatabase = `${sql}/ALTER-DATABASE.html`;
const backup = `${reference}/V-BACKUP.html`;
const snapshots =
  'https://docs.oracle.com/en/database/oracle/oracle-database/19/bradv/user-managed-database-backups.html';

export const oracleDocument: HookDocument = {
  promise:
    'Every commit that was acknowledged before the mark is in the point, none that came after it: all data files, redo logs and control files are of one moment, in the order in which they were written, and the time of it is kept. These are what Oracle asks of a storage snapshot that is taken without backup mode. A start recovers from the redo logs alone, from the checkpoint that was made just before; nobody is held. With mode hot-backup the data files are in backup mode at the mark: they may also be given to RMAN or RECOVER with archived logs; in the recovered VM backup mode is ended, and the database opened, before its readiness.',
  findings: {
    cluster: 'Real Application Clusters: files of several VMs.',
    standby: 'The database is a standby: what it applies is decided elsewhere.',
    'not-open': 'The database is not open for reading and writing.',
    noarchivelog: 'mode hot-backup, and the database is not in ARCHIVELOG mode.',
    'in-backup-mode': 'Data files are in backup mode by somebody else: a start from the point would ask for recovery.',
    'commit-nowait': 'commit_wait or commit_write is NOWAIT: commits are acknowledged early.',
    'data-unprotected':
      'A data file, redo log, control file, archive destination or disk of an ASM disk group lies on no captured disk of the group, or the disks of the disk group cannot be seen.',
    restarted: 'The instance was started anew in the middle of the hold.',
    'backup-mode-lost': 'Backup mode ended, or began anew, before the release.',
  },
  statements: [
    {
      step: 'prepare',
      statement: 'SELECT … FROM v$database, v$instance, v$backup, v$parameter',
      why: 'log_mode, open_mode, database_role, current_scn; startup_time; files in backup mode; commits that do not wait: findings.',
      source: `${reference}/V-DATABASE.html`,
    },
    {
      step: 'prepare',
      statement: 'SELECT … FROM v$datafile, v$logfile, v$controlfile, v$archive_dest, v$recovery_file_dest, v$asm_disk',
      why: 'Where all its files lie: each must be on a captured disk of the group.',
      source: snapshots,
    },
    {
      step: 'prepare',
      statement: 'ALTER SYSTEM ARCHIVE LOG CURRENT',
      why: 'Outside of the hold, only in ARCHIVELOG mode: the redo up to here is archived, and another log begun.',
      source: alterSystem,
    },
    {
      step: 'prepare',
      statement: 'ALTER SYSTEM CHECKPOINT',
      why: 'Outside of the hold: returns when all changed blocks are in the data files; recovery begins here.',
      source: alterSystem,
    },
    {
      step: 'quiesce',
      statement: 'ALTER DATABASE BEGIN BACKUP',
      why: 'Only with mode hot-backup. ORA-01146: a file is in backup mode already; ORA-01123: not in ARCHIVELOG mode.',
      source: alterDatabase,
    },
    {
      step: 'quiesce',
      statement: "SELECT COUNT(*), MAX(change#) FROM v$backup WHERE status = 'ACTIVE'",
      why: 'Files that are in backup mode, and since when; with v$database and v$instance as before.',
      source: backup,
    },
    {
      step: 'release',
      statement: 'ALTER DATABASE END BACKUP',
      why: 'Only with mode hot-backup, after the same look at v$backup.',
      source: alterDatabase,
    },
    {
      step: 'verify',
      statement: 'ALTER SYSTEM ARCHIVE LOG CURRENT',
      why: 'Only with mode hot-backup: the redo up to the end of the backup is archived, which recovery from it needs.',
      source: alterSystem,
    },
    {
      step: 'verify',
      statement: 'SELECT startup_time FROM v$instance; SELECT current_scn FROM v$database',
      why: 'The same start of the instance, its SCN did not go back, and backup mode was the same from its begin to its end.',
      source: `${reference}/V-INSTANCE.html`,
    },
    {
      step: 'undo',
      statement: 'ALTER DATABASE END BACKUP',
      why: 'Only where our mark (/var/lib/tidemark/oracle-<sid>) tells that backup mode is ours, and v$backup that it is on. An instance that could not be opened for it (ORA-10873) is opened: ALTER DATABASE OPEN.',
      source: alterDatabase,
    },
    {
      step: 'afterRecovery',
      statement: 'ALTER DATABASE END BACKUP; ALTER DATABASE OPEN',
      why: 'The same, in the recovered VM. While no instance runs (ORA-01034) it is tried again: let the guest start it.',
      source: alterDatabase,
    },
  ],
  testedAgainst: 'dialogue',
};
